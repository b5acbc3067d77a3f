"""What a machine is to be, for `elsa doctor`: the settings that its role would read there, and what is given besides.

So what is looked at is what the role would do, with the same environment and the same file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import typer
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from elsa.errors import SpecError
from elsa.parsing import Name
from elsa.spec import RunSpec
from services.cli.flags import merged
from services.client.settings import ClientSettings
from services.cloud.settings import CloudSettings
from services.doctor.examination import Subject
from services.doctor.peer import Peer
from services.doctor.room import Folder
from services.edge.settings import EdgeSettings
from services.rpc.identity import Role
from services.rpc.tls_settings import LONE_LIST, TlsSettings, files_of

EVERYWHERE = ("0.0.0.0", "::", "[::]")
"""Addresses to listen on that nobody can call."""


class AdminSettings(TlsSettings):
    """Settings of who submits runs, as `elsa run` reads them."""

    model_config = SettingsConfigDict(env_prefix="ELSA_", extra="forbid", frozen=True)

    name: Name | None = Field(None, description="name in the certificate; any if not given")
    cloud: str = Field("127.0.0.1:7400", description="host:port of the cloud")


SETTINGS: Mapping[str, type[TlsSettings]] = {
    "admin": AdminSettings,
    "edge": EdgeSettings,
    "client": ClientSettings,
    "cloud": CloudSettings,
}


def subject_of(
    role: str,
    given: Mapping[str, Any],
    config: Path | None,
    *,
    crl: Path | None,
    edges: Sequence[Peer],
    spec: RunSpec | None,
    model: str,
    asks_edges: bool,
    timeout_s: float,
) -> Subject:
    """What to look at on a machine that is to be a `role`.

    Raises:
        typer.BadParameter: for a role that does not exist, or a flag that this one has not.
        SpecError: for settings that cannot be used.
    """
    if role not in SETTINGS:
        raise typer.BadParameter(f"{role!r} is no role; it is one of {', '.join(SETTINGS)}", param_hint="--as")
    kind = SETTINGS[role]
    settings: Any = merged(kind, _known(kind, role, given), config, role)
    crl = crl or getattr(settings, "tls_crl", None)
    if crl is not None and settings.tls is None:
        raise SpecError(f"settings of the {role}: {LONE_LIST}")
    return Subject(
        role=cast(Role, role),
        name=getattr(settings, "name", None),
        cloud=_cloud(settings),
        edges=(*edges, *_told(settings)),
        asks_edges=asks_edges,
        files=files_of(settings.tls_ca, settings.tls_cert, settings.tls_key, crl),
        insecure=settings.insecure,
        model=spec.model.source if spec and not model else model,
        spec=spec,
        models=getattr(settings, "models", {}),
        max_memory_mib=getattr(settings, "max_memory_mib", None),
        folders=_folders(settings),
        timeout_s=timeout_s,
    )


def _known(kind: type[TlsSettings], role: str, given: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(name for name in given if name not in kind.model_fields)
    if unknown:
        flag = f"--{unknown[0].replace('_', '-')}"
        raise typer.BadParameter(f"a {role} has no such setting; leave it out", param_hint=flag)
    return dict(given)


def _cloud(settings: Any) -> Peer | None:
    if not isinstance(settings, CloudSettings):
        return Peer(server="cloud", address=settings.cloud)
    host = "127.0.0.1" if settings.host in EVERYWHERE else settings.host
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return Peer(server="cloud", address=f"{host}:{settings.port}") if settings.port else None


def _told(settings: Any) -> list[Peer]:
    """Edges of which a client's owner says how to reach them."""
    if not isinstance(settings, ClientSettings):
        return []
    return [Peer(server="edge", address=at, name=name) for name, at in settings.edge_addresses.items()]


def _folders(settings: Any) -> tuple[Folder, ...]:
    """Where a role writes."""
    if isinstance(settings, CloudSettings):
        return (Folder(path=settings.state, use="state"),)
    if isinstance(settings, EdgeSettings):
        return (Folder(path=settings.state, use="state"), Folder(path=settings.profiles_folder, use="profiles"))
    if isinstance(settings, ClientSettings):
        return (
            Folder(path=settings.cache_folder, use="what edges send"),
            Folder(path=settings.profiles_folder, use="profiles"),
        )
    return (Folder(path=Path(), use="where exports go"),)
