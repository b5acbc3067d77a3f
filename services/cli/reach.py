"""How a command reaches its cloud: the flags that all such commands share, and the operator made of them."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from services.cli.operator import Operator


@dataclass(frozen=True, kw_only=True)
class Reach:
    """The flags; each is also read from the environment."""

    cloud: Annotated[str, typer.Option(envvar="ELSA_CLOUD", metavar="HOST:PORT", help="The cloud's address.")] = (
        "127.0.0.1:7400"
    )
    patience: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long to go on asking a silent cloud.")
    ] = 30.0
    tls_ca: Annotated[
        Path | None,
        typer.Option(envvar="ELSA_TLS_CA", metavar="FILE", help="TLS: PEM file of the fleet's authority."),
    ] = None
    tls_cert: Annotated[
        Path | None, typer.Option(envvar="ELSA_TLS_CERT", metavar="FILE", help="TLS: PEM file of your certificate.")
    ] = None
    tls_key: Annotated[
        Path | None, typer.Option(envvar="ELSA_TLS_KEY", metavar="FILE", help="TLS: PEM file of its private key.")
    ] = None
    insecure: Annotated[
        bool, typer.Option(envvar="ELSA_INSECURE", help="Call a cloud off loopback without TLS all the same.")
    ] = False

    def operator(self) -> "Operator":
        """A link to the cloud; what it has to say while it waits goes to standard error.

        Raises SpecError if files of TLS are missing, InputError if they cannot be used, AddressError without them
        for a cloud that is not on loopback.
        """
        import logging

        from elsa.errors import SpecError
        from services.cli.operator import Operator
        from services.rpc.dial import Dialer
        from services.rpc.tls import own_certificate
        from services.rpc.tls_settings import files_of, missing_of

        logging.basicConfig(level="WARNING", format="%(message)s")
        given = (self.tls_ca, self.tls_cert, self.tls_key)
        missing = missing_of(*given)
        if missing:
            raise SpecError(missing)
        own = own_certificate(files_of(*given), self.insecure, "admin")
        return Operator(self.cloud, self.patience, dialer=Dialer(own=own, insecure=self.insecure))


def with_reach(command: Callable[..., Any]) -> Callable[..., Any]:
    """`command` for typer, with the flags of `Reach` in place of its parameter `reach`."""

    def called(**given: Any) -> Any:
        reach = Reach(**{field.name: given.pop(field.name) for field in fields(Reach)})
        return command(**given, reach=reach)

    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(command).parameters.values()
        if parameter.name != "reach"
    ]
    shared = inspect.signature(Reach).parameters.values()
    parameters = [*own, *shared]
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    called.__name__, called.__doc__ = command.__name__, command.__doc__
    return called
