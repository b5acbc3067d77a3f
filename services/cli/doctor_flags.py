"""The flags of `elsa doctor`: those that are settings of a role, and what to look at besides."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

File = Path | None
Text = str | None
SETTINGS = (
    *("name", "cloud", "host", "port", "state", "database_url", "blobs_url"),
    *("tls_ca", "tls_cert", "tls_key", "insecure"),
)
"""Flags that are a setting of the same name, of one role at least; the list of the revoked is everybody's here."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What may be given, as given."""

    role: Annotated[
        str, typer.Option("--as", metavar="ROLE", help="What this machine is to be: admin, edge, client or cloud.")
    ] = "admin"
    config: Annotated[File, typer.Option(metavar="FILE.yaml", help="The role's settings.")] = None
    name: Annotated[Text, typer.Option(help="The node's name, if not that of its settings.")] = None
    cloud: Annotated[
        Text, typer.Option(metavar="HOST:PORT", help="The cloud's address, if not that of its settings.")
    ] = None
    host: Annotated[Text, typer.Option(help="Cloud, edge: the address to listen on.")] = None
    port: Annotated[Text, typer.Option(metavar="INTEGER", help="Cloud, edge: the port to listen on.")] = None
    state: Annotated[Text, typer.Option(metavar="FOLDER", help="Cloud, edge: where its state is kept.")] = None
    database_url: Annotated[Text, typer.Option(metavar="URL", help="Cloud: its database; no password here.")] = None
    blobs_url: Annotated[Text, typer.Option(metavar="URL", help="Cloud: where its blobs are kept.")] = None
    spec: Annotated[
        File, typer.Option(metavar="SPEC.yaml", help="A run: is its model here, and memory for its split?")
    ] = None
    model: Annotated[
        str, typer.Option(metavar="SOURCE", help="A model to look at: minilm, a folder, or a hub name.")
    ] = ""
    edge: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="Admin, client: an edge to be reached; may be repeated."),
    ] = None
    edge_name: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Who must be there, one for each --edge in order.")
    ] = None
    edges: Annotated[
        bool, typer.Option(help="Admin: also call every edge that the cloud knows, at the address that it tells.")
    ] = True
    timeout: Annotated[
        float, typer.Option(min=0.1, max=600, metavar="SECONDS", help="For each thing that is waited for.")
    ] = 5.0
    tls_ca: Annotated[File, typer.Option(metavar="FILE", help="PEM file of the fleet's authority.")] = None
    tls_cert: Annotated[File, typer.Option(metavar="FILE", help="PEM file of this machine's certificate.")] = None
    tls_key: Annotated[File, typer.Option(metavar="FILE", help="PEM file of its private key.")] = None
    tls_crl: Annotated[
        File,
        typer.Option(
            envvar="ELSA_TLS_CRL", metavar="FILE", help="The list of the revoked: also held against servers here."
        ),
    ] = None
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="No TLS is meant, off loopback too.", show_default=False)
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False

    @property
    def settings(self) -> dict[str, Any]:
        """The settings among them that are given."""
        return {name: value for name in SETTINGS if (value := getattr(self, name)) is not None}

    @property
    def given(self) -> list[str]:
        """Names of all that are given and are not for every role, as they are written."""
        others = [name for name in ("spec", "model", "edge", "edge_name") if getattr(self, name)]
        return [*self.settings, *others, *([] if self.edges else ["no_edges"])]


def with_flags(look: Callable[[Flags], int]) -> Any:
    """`look` for typer, with a flag for each field."""

    def command(**given: Any) -> int:
        return look(Flags(**given))

    command.__signature__ = inspect.signature(Flags)  # type: ignore[attr-defined]
    command.__annotations__ = {field.name: field.type for field in fields(Flags)}
    return command
