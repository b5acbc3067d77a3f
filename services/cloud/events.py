"""What happens in a run, as `WatchRun` tells it; all but `NodeProgress` are kept."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from elsa.cluster.trust import Parts
from elsa.train.phases import PhaseSeconds
from services.cloud.lifecycle import RunState
from services.cloud.round_records import ClientReport


@dataclass(frozen=True, kw_only=True)
class StateChanged:
    """The run has a new state."""

    kind: Literal["state_changed"] = "state_changed"
    state: RunState
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class NodeJoined:
    """A node answered the offer."""

    kind: Literal["node_joined"] = "node_joined"
    node_id: str
    detail: str
    accepted: bool


@dataclass(frozen=True, kw_only=True)
class ClientAssigned:
    """A client was given an edge."""

    kind: Literal["client_assigned"] = "client_assigned"
    client_id: str
    edge_id: str
    bottom: int
    """Blocks that it keeps there."""
    top: int
    detail: str


@dataclass(frozen=True, kw_only=True)
class UpdateReceived:
    """An edge's aggregate arrived."""

    kind: Literal["update_received"] = "update_received"
    edge_id: str
    version: int
    rows: int
    reports: tuple[ClientReport, ...]


@dataclass(frozen=True, kw_only=True)
class RoundOpened:
    """A round was opened, or its deadline changed."""

    kind: Literal["round_opened"] = "round_opened"
    version: int
    """That it is to make."""
    deadline_s: float
    detail: str
    """Why so many seconds."""


@dataclass(frozen=True, kw_only=True)
class Absent:
    """A client that is not in a version."""

    client_id: str
    detail: str
    """Why, on one line."""


@dataclass(frozen=True, kw_only=True)
class AwayMember:
    """A client or edge for which nobody waits."""

    node_id: str
    detail: str
    """Why, on one line."""


@dataclass(frozen=True, kw_only=True)
class PresenceChanged:
    """Members of a run that has begun are not waited for any more, or are again."""

    kind: Literal["presence_changed"] = "presence_changed"
    away: int
    """For so many nobody waits from now on, or for another reason than before."""
    first_away: tuple[AwayMember, ...]
    """The first of them, in order of their names."""
    back: int
    """So many are waited for again."""
    first_back: tuple[str, ...]
    """The first of them, likewise."""


@dataclass(frozen=True, kw_only=True)
class RoundClosed:
    """A new global version is there."""

    kind: Literal["round_closed"] = "round_closed"
    version: int
    edge_ids: tuple[str, ...]
    missing_edge_ids: tuple[str, ...]
    seconds: float
    clients: int = 0
    """That have taken part in the run so far."""
    absent: int = 0
    """Those of them that are not in the version."""
    absentees: tuple[Absent, ...] = ()
    """The first of those, in order of their names."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Metrics of one version, over one client's rows or several clients'."""

    version: int
    rows: int
    loss: float
    accuracy: float
    clients: int = 0
    """Clients that have reported; 0 for one client's own."""
    cluster: int | None = None
    """Whose adapter of the version was evaluated; None for the run's."""


@dataclass(frozen=True, kw_only=True)
class EvaluationReported:
    """A client evaluated a version."""

    kind: Literal["evaluation_reported"] = "evaluation_reported"
    client_id: str
    evaluation: Metrics
    total: Metrics
    own: Metrics | None = None
    """The client's of its cluster's adapter."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one client stands among the others."""

    client_id: str
    cluster: int
    edge_id: str
    trust: float
    latency_ms: float
    parts: Parts | None = None
    set_aside: bool = False
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Clustered:
    """The cloud has decided who learns with whom."""

    kind: Literal["clustered"] = "clustered"
    version: int
    detail: str
    clusters: int
    places: tuple[Place, ...]
    """In order of the clients' names."""


@dataclass(frozen=True, kw_only=True)
class TrustChanged:
    """A client is trusted otherwise than before."""

    kind: Literal["trust_changed"] = "trust_changed"
    client_id: str
    trust: float
    set_aside: bool
    detail: str
    parts: Parts | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedClient:
    """What one client carries."""

    client_id: str
    edge_id: str
    split: str
    """bottom/trunk/top."""
    local_steps: int
    seconds: PhaseSeconds
    """Predicted, of a step."""
    need_bytes: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Planned:
    """Splits were planned, at the start or again."""

    kind: Literal["planned"] = "planned"
    version: int
    """That the plan was made after."""
    notes: tuple[str, ...]
    step_s: float
    clients: tuple[PlannedClient, ...]
    """Whose share changed, in order of their names."""


@dataclass(frozen=True, kw_only=True)
class NodeProgress:
    """Where a node is; not kept."""

    node_id: str
    run_id: str
    version: int
    edge_round: int
    activity: str
    step: int
    steps: int
    loss: float


KeptEvent = Annotated[
    StateChanged
    | NodeJoined
    | ClientAssigned
    | UpdateReceived
    | RoundOpened
    | RoundClosed
    | PresenceChanged
    | EvaluationReported
    | Clustered
    | TrustChanged
    | Planned,
    Field(discriminator="kind"),
]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One event of a run."""

    run_id: str
    sequence: int
    """Rises by one within a run, from 1; 0 in what is not kept."""
    unix_s: float
    body: KeptEvent | NodeProgress
