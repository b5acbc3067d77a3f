"""What a machine is to be, for `elsa doctor`: the settings that its role would read there, and what is given besides.

So what is looked at is what the role would do, with the same environment and the same file.
"""

from collections.abc import Iterable, Mapping, Sequence
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
from services.doctor.listening import Listener
from services.doctor.peer import Peer
from services.doctor.room import Folder
from services.doctor.subject import Subject
from services.edge.settings import EdgeSettings
from services.rpc.identity import Role
from services.rpc.tls_settings import LONE_LIST, TlsSettings, files_of

STATE, PROFILES = "--state (setting state, ELSA_STATE)", "the setting profiles (ELSA_PROFILES)"


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


OTHERS: Mapping[str, tuple[str, ...]] = {
    "spec": ("admin", "edge", "client"),
    "model": ("admin", "edge", "client"),
    "edge": ("admin", "client"),
    "edge_name": ("admin", "client"),
    "no_edges": ("admin",),
}
"""Which roles take the flags that are no settings, where not all do."""


def check_flags(role: str, given: Iterable[str]) -> None:
    """Raise typer.BadParameter for a role that does not exist, or a flag of others alone, which it names."""
    if role not in SETTINGS:
        raise typer.BadParameter(f"{role!r} is no role; it is one of {', '.join(SETTINGS)}", param_hint="--as")
    for flag in given:
        takers = OTHERS.get(flag) or [each for each, kind in SETTINGS.items() if flag in kind.model_fields]
        if role not in takers:
            said = f"is for {_either(takers)}, and this is to be {_a(role)}; leave it out, or say another --as"
            raise typer.BadParameter(said, param_hint=f"--{flag.replace('_', '-')}")


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
    """What to look at on a machine that is to be a `role`, which exists and has all settings that are given.

    Raises:
        SpecError: for settings that cannot be used.
    """
    settings: Any = merged(SETTINGS[role], given, config, role)
    crl = crl or getattr(settings, "tls_crl", None)
    if crl is not None and settings.tls is None:
        raise SpecError(f"settings of the {role}: {LONE_LIST}")
    return Subject(
        role=cast(Role, role),
        name=getattr(settings, "name", None),
        cloud=None if role == "cloud" else Peer(server="cloud", address=settings.cloud),
        listener=_listener(settings),
        edges=(*edges, *_told(settings)),
        asks_edges=asks_edges,
        files=files_of(settings.tls_ca, settings.tls_cert, settings.tls_key, crl),
        insecure=settings.insecure,
        model=spec.model.source if spec and not model else model,
        spec=spec,
        models=getattr(settings, "models", {}),
        max_memory_mib=getattr(settings, "max_memory_mib", None),
        folders=_folders(settings),
        database_url=getattr(settings, "database_url", ""),
        blobs_url=getattr(settings, "blobs_url", ""),
        timeout_s=timeout_s,
    )


def _listener(settings: Any) -> Listener | None:
    if isinstance(settings, CloudSettings):
        return Listener(role="cloud", host=settings.host, port=settings.port)
    if isinstance(settings, EdgeSettings):
        return Listener(role="edge", host=settings.host, port=settings.port, name=settings.name)
    return None


def _told(settings: Any) -> list[Peer]:
    """Edges of which a client's owner says how to reach them."""
    if not isinstance(settings, ClientSettings):
        return []
    return [Peer(server="edge", address=at, name=name) for name, at in settings.edge_addresses.items()]


def _folders(settings: Any) -> tuple[Folder, ...]:
    """Where a role writes."""
    if isinstance(settings, CloudSettings):
        return (Folder(path=settings.state, use="state", named_by=STATE),)
    if isinstance(settings, EdgeSettings):
        return (
            Folder(path=settings.state_folder, use="state", named_by=STATE),
            Folder(path=settings.profiles_folder, use="profiles", named_by=PROFILES),
        )
    if isinstance(settings, ClientSettings):
        return (
            Folder(path=settings.cache_folder, use="what edges send", named_by="the setting cache (ELSA_CACHE)"),
            Folder(path=settings.profiles_folder, use="profiles", named_by=PROFILES),
        )
    return (Folder(path=Path(), use="where exports go", named_by="--to of elsa run", needed=False),)


def _either(roles: Sequence[str]) -> str:
    *others, last = map(_a, roles)
    return f"{', '.join(others)} or {last}" if others else last


def _a(role: str) -> str:
    return f"{'an' if role[0] in 'ae' else 'a'} {role}"
