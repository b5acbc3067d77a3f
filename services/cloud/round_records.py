"""What the cloud keeps of a run's rounds: updates, the versions that they make, and how those do. As `records.py`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from elsa.train.phases import PhaseSeconds


@dataclass(frozen=True, kw_only=True)
class Round:
    """The making of one global version; version 0 is the initial adapter."""

    run_id: str
    version: int
    opened_unix_s: float
    closed_unix_s: float | None = None
    sha256: str | None = None
    """Its blob, once closed."""
    total_bytes: int = 0
    edge_ids: tuple[str, ...] = ()
    deadline_s: float = 0.0
    """From its beginning to its deadline, seconds; 0 of version 0."""
    anew: bool = False
    """Somebody trains elsewhere or carries something else than in the round before."""
    cut: bool = False
    """Its seconds tell nothing: it closed by a deadline, its own or an edge's, or the cloud was away in it."""
    owed: bool = False
    """Someone who was there missed its deadline, which was shorter than the specification's."""
    score: float | None = None
    """The metric of its version that early stopping goes by, once judged."""


@dataclass(frozen=True, kw_only=True)
class ClientReport:
    """What one client did in one edge round."""

    client_id: str
    edge_round: int
    rows: int
    steps: int
    loss: float
    seconds: PhaseSeconds = field(default_factory=PhaseSeconds)
    up_bytes: int = 0
    down_bytes: int = 0
    wall_s: float = 0.0
    float32_bytes: int = 0
    split: str = ""
    """bottom/trunk/top as it trained; empty where it did not say."""


MOST_CLUSTERS = 1000
MIXED = -1
"""In place of a cluster: of clients of several, or of a run that does not cluster."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """An edge's aggregate, made from global version `version`; in a run that has clustered, of one cluster."""

    run_id: str
    version: int
    edge_id: str
    cluster: int = MIXED
    """As the edge numbers them."""
    outdated: bool = False
    """That cluster is none of those that hold: the update is of no cluster's adapter, as one that is MIXED."""
    parts: int = 1
    """How many make up what the edge delivers of this version, one a cluster."""
    delivery_id: str = ""
    """Names the edge's attempt to deliver this version; there are updates of one attempt alone."""
    rows: int
    effective_steps: float = 0.0
    """Optimizer steps that it counts for in a run whose clients take different numbers of them; 0 in others."""
    sha256: str
    reports: tuple[ClientReport, ...] = ()
    cut_short: bool = False
    """Its edge closed an edge round by its deadline."""
    moved: Mapping[str, tuple[float, ...]] = field(default_factory=dict, repr=False)
    """By client, the mean over its edge rounds of a summary of how far its adapter went; until the round closes."""


@dataclass(frozen=True, kw_only=True)
class ClusterAdapter:
    """What a version is for one cluster: the mean of its clients' updates alone."""

    run_id: str
    version: int
    cluster: int
    sha256: str
    total_bytes: int


@dataclass(frozen=True, kw_only=True)
class ClusterScore:
    """One client's metrics of its cluster's adapter, on the same rows as those of the global one."""

    cluster: int
    loss: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One client's metrics of a version."""

    run_id: str
    version: int
    client_id: str
    rows: int
    loss: float
    accuracy: float
    own: ClusterScore | None = None
    """Of its cluster's adapter of the version, where there is one."""
