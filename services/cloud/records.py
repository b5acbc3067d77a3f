"""What the cloud keeps of nodes, runs and their members, a dataclass a table row; `tables.py` says how it is stored.

What their rounds make is in `round_records.py`.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from elsa.cluster.trust import Parts
from elsa.model.adapter_config import AdapterConfig
from elsa.plan.profile import ClientProfile, EdgeProfile
from elsa.plan.shape import ModelShape
from services.cloud.lifecycle import RunState


class Role(StrEnum):
    """What a node is."""

    EDGE = "edge"
    CLIENT = "client"


class Answer(StrEnum):
    """What became of the offer of a run to a node."""

    OFFERED = "offered"
    JOINED = "joined"
    REFUSED = "refused"
    LEFT_OUT = "left out"


@dataclass(frozen=True, kw_only=True)
class Installation:
    """Which database this is, so that blobs are known to be its own."""

    installation_id: str


@dataclass(frozen=True, kw_only=True)
class Node:
    """An edge or a client that has registered."""

    node_id: str
    role: Role
    address: str = ""
    """Edge: host:port for its clients."""
    capacity: int = 0
    """Edge: sessions at once."""
    datasets: tuple[str, ...] = ()
    """Client: what its owner offers."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as it stands."""

    run_id: str
    number: int
    """Order of submission, from 1."""
    name: str
    state: RunState
    reason: str = ""
    spec: str
    """YAML."""
    rounds: int
    version: int | None = None
    """Newest global adapter, None before the first."""
    config: AdapterConfig | None = None
    created_unix_s: float
    best: int | None = None
    """The best version, of a run that may stop early and has judged one."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """A client's way to an edge."""

    edge_id: str
    latency_ms: float
    up_bytes_per_s: float = 0.0
    """From client to edge; 0 if not measured."""
    down_bytes_per_s: float = 0.0
    """From edge to client; 0 if not measured."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A node that was offered a run."""

    run_id: str
    node_id: str
    role: Role
    answer: Answer = Answer.OFFERED
    detail: str = ""
    """What it said on one line: row report or refusal."""
    room: int = 0
    """Edge: sessions for this run."""
    train_rows: int = 0
    heldout_rows: int = 0
    links: tuple[Link, ...] = ()
    edge_id: str | None = None
    """Client: where it trains, once that is decided."""
    split: str | None = None
    """Client: bottom/top, once it was given an edge, whatever became of it since."""
    local_steps: int = 0
    """Client: of an edge round, where splits are planned; 0: as the specification says."""
    base_digest: str = ""
    """Names the frozen base that it has; empty where it did not say."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a member of a run whose splits are planned measured of itself, as rounds have corrected it since."""

    run_id: str
    node_id: str
    client: ClientProfile | None = None
    """A client's, with its links."""
    row_tokens: float = 0.0
    """Client: real tokens of one of its rows on average."""
    edge: EdgeProfile | None = None
    """An edge's."""
    shape: ModelShape | None = None
    """Edge: of the run's model."""


@dataclass(frozen=True, kw_only=True)
class KeyHolder:
    """The public key of a client of a run that shares a key."""

    run_id: str
    client_id: str
    public_key: bytes


@dataclass(frozen=True, kw_only=True)
class KeyMaking:
    """Who makes a run's shared key; the key itself is never here."""

    run_id: str
    maker_id: str
    """Who is asked to make it; once it is there, who made it."""
    width: int = 0
    basis: bytes | None = field(default=None, repr=False)
    """V of SS-OP as its maker sent it: float32, little-endian, rows of `width`."""


@dataclass(frozen=True, kw_only=True)
class WrappedKey:
    """The key as one client wrapped it for another, who alone can open it."""

    run_id: str
    client_id: str
    """For whom."""
    from_client_id: str
    public_key: bytes
    nonce: bytes
    ciphertext: bytes


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What a client answered to the probes, checked."""

    run_id: str
    client_id: str
    arrived_unix_s: float
    asked: tuple[int, ...]
    """The probe at each place of the client's own order, repeats included."""
    version: int = 0
    """From which the clusters hold that it is for: 0 in the warm-up, else the one that the client trained towards."""
    dimensions: int
    embeddings: bytes = field(repr=False)
    """float32, little-endian, (places, dimensions)."""
    labels: int = 0
    probabilities: bytes | None = field(default=None, repr=False)
    """float32, little-endian, (places, labels); None where the task is not classification."""


@dataclass(frozen=True, kw_only=True)
class Clustering:
    """Who learns with whom: begun with a run's warm-up, decided at its end; a run that does not cluster has none."""

    run_id: str
    began_unix_s: float
    version: int | None = None
    """The version that the decision holds from; None until it is made."""
    clusters: int = 0
    medoids: tuple[str, ...] = ()
    """The client in the middle of each cluster; none where there were too few fingerprints."""
    detail: str = ""
    """How it was decided, and what was fallen back to."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a client counts, once its run has clustered."""

    run_id: str
    client_id: str
    cluster: int
    trust: float
    told: float
    """Its trust as the events say."""
    parts: Parts | None = None
    """Of its newest score; None without a fingerprint, before its first update."""
    low_rounds: int = 0
    """In how many rounds in a row up to now it was too low."""
    set_aside: bool = False
    detail: str = ""
    """Why it stands here, on one line."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """Where a client's updates have been going, as `elsa.cluster.trust.course` says."""

    run_id: str
    client_id: str
    values: bytes = field(repr=False)
    """float32, little-endian, as many as a summary of an update has."""
