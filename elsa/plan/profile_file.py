"""Profiles as a JSON file, for plans that are made by hand: each device is read apart, so that one cannot spoil all.

    {"edges": {"edge-1": {"block_s": 0.004, "memory_bytes": 8e9, "capacity": 8}},
     "clients": {"client-1": {"edge": "edge-1", "block_s": 0.02, "memory_bytes": 2e9, "links":
        {"edge-1": {"latency_ms": 8, "up_bytes_per_s": 2e6, "down_bytes_per_s": 2e7}}}}}

Fields are those of `profile.py`; what may be left out has a default there or below. Beside the devices there may be
"model", the fields of `ModelShape`, and "row_tokens", the real tokens of a row on average: with both, a plan needs no
model.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import Field

from elsa.errors import SpecError
from elsa.parsing import Name, Part, parse
from elsa.plan.problem import Refusal
from elsa.plan.profile import ClientProfile, EdgeProfile, LinkProfile
from elsa.plan.shape import ModelShape

Role = Literal["client", "edge"]
Device = TypeVar("Device")


class LinkPart(Part):
    """A `LinkProfile` as written."""

    latency_ms: float
    up_bytes_per_s: float
    down_bytes_per_s: float


class ClientPart(Part):
    """A `ClientProfile` as written, with the edge that it trains at if that is known."""

    edge: Name | None = None
    block_s: float
    embeddings_s: float = 0.0
    head_s: float = 0.0
    codec_s: float = 0.0
    memory_bytes: int
    max_bottom: int | None = None
    padded_tokens: float | None = None
    links: Mapping[Name, LinkPart] = {}


class EdgePart(Part):
    """An `EdgeProfile` as written."""

    block_s: float
    crowding_s: float = 0.0
    step_s: float = 0.0
    memory_bytes: int
    capacity: int
    quarter_block_s: float | None = None
    quarter_step_s: float | None = None


class ModelPart(Part):
    """A `ModelShape` as written."""

    blocks: int
    width: int
    block_weights: int
    embedding_weights: int
    head_weights: int
    largest_weights: int
    block_adapter: int
    head_adapter: int = 0
    block_activations: int
    head_activations: int


class FilePart(Part):
    """A file as written; its devices are read one by one."""

    clients: Mapping[str, Any]
    edges: Mapping[str, Any]
    model: ModelPart | None = None
    row_tokens: float | None = Field(None, gt=0, le=2**31)


class NamePart(Part):
    """A device's name."""

    name: Name


@dataclass(frozen=True, kw_only=True)
class Profiles:
    """What a file says of a fleet, by the order of names; the parts of a `Problem`."""

    clients: tuple[ClientProfile, ...] = ()
    edges: tuple[EdgeProfile, ...] = ()
    homes: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[Refusal, ...] = ()
    """Devices that cannot be used as they are written, and why."""
    model: ModelShape | None = None
    row_tokens: float | None = None
    """Real tokens of a row on average."""


def profiles_from_json(text: str, origin: str) -> Profiles:
    """Read a file. Raises SpecError naming the origin if it is no JSON object of clients and edges."""
    written = parse(FilePart, _loaded(text, origin), origin)
    faults: list[Refusal] = []
    edges = _devices("edge", written.edges, _edge, faults)
    clients = _devices("client", written.clients, _client, faults)
    return Profiles(
        clients=tuple(client for client, _ in clients),
        edges=tuple(edges),
        homes={client.name: home for client, home in clients if home is not None},
        faults=tuple(faults),
        model=_model(written.model, origin),
        row_tokens=written.row_tokens,
    )


def profiles_to_json(profiles: Profiles) -> str:
    """The file that `profiles_from_json` reads back to equal values; faults are left out."""
    edges = {edge.name: _without_name(edge) for edge in profiles.edges}
    clients = {
        client.name: {"edge": profiles.homes.get(client.name), **_without_name(client)} for client in profiles.clients
    }
    known = {"model": profiles.model and asdict(profiles.model), "row_tokens": profiles.row_tokens}
    shape = {key: value for key, value in known.items() if value is not None}
    return json.dumps({**shape, "edges": edges, "clients": clients}, indent=2) + "\n"


def _loaded(text: str, origin: str) -> Any:
    try:
        return json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{origin} is not JSON: {' '.join(str(error).split())}") from error


def _once_each(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of two entries with one name, which JSON does not forbid, neither may be dropped unsaid."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in made if names.count(name) > 1)
        raise ValueError(f"{twice:.80} is there twice in one object")
    return made


def _model(part: ModelPart | None, origin: str) -> ModelShape | None:
    if part is None:
        return None
    try:
        shape = ModelShape(**dict(part))
        shape.check_measured()
    except SpecError as error:
        raise SpecError(f"{origin}: {error}") from error
    return shape


def _devices(
    role: Role, raw: Mapping[str, Any], read: Callable[[str, Any], Device], faults: list[Refusal]
) -> list[Device]:
    """The devices that can be used; those that cannot are added to `faults`."""
    devices = []
    for name, written in sorted(raw.items()):
        try:
            parse(NamePart, {"name": name}, f"{role} {name:.80}")
            devices.append(read(name, written))
        except SpecError as error:
            faults.append(Refusal(name=name, role=role, reason=str(error).removeprefix(f"{role} {name:.80}: ")))
    return devices


def _client(name: str, written: Any) -> tuple[ClientProfile, str | None]:
    part = parse(ClientPart, written, f"client {name}")
    links = {edge: LinkProfile(**dict(link)) for edge, link in part.links.items()}
    figures = {key: value for key, value in part if key not in ("edge", "links")}
    return ClientProfile(name=name, links=links, **figures), part.edge


def _edge(name: str, written: Any) -> EdgeProfile:
    return EdgeProfile(name=name, **dict(parse(EdgePart, written, f"edge {name}")))


def _without_name(device: ClientProfile | EdgeProfile) -> dict[str, Any]:
    return {key: value for key, value in asdict(device).items() if key != "name"}
