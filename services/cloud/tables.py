"""The database's tables, a column a field of the record of the same table."""

from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Enum,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from elsa.cluster.trust import Parts
from elsa.model.adapter_config import AdapterConfig
from elsa.plan.profile import ClientProfile, EdgeProfile
from elsa.plan.shape import ModelShape
from services.cloud.events import Event, KeptEvent
from services.cloud.lifecycle import RunState
from services.cloud.records import (
    Answer,
    Clustering,
    Course,
    Fingerprint,
    Installation,
    KeyHolder,
    KeyMaking,
    Link,
    Member,
    Node,
    Profile,
    Role,
    Run,
    Standing,
    WrappedKey,
)
from services.cloud.round_records import ClientReport, ClusterAdapter, ClusterScore, Evaluation, Round, Update


class JsonOf(TypeDecorator[Any]):
    """A column of any dataclass, or tuple of them, as JSON."""

    impl = Text
    cache_ok = True

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.kind = kind
        self._adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """To the database."""
        return None if value is None else self._adapter.dump_json(value).decode()

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """From the database."""
        return None if value is None else self._adapter.validate_json(value)


def _words(kind: Any) -> Enum:
    return Enum(kind, native_enum=False, length=16, values_callable=lambda words: [word.value for word in words])


METADATA = MetaData()
_ID = String(96).with_variant(String(96, collation="C"), "postgresql")
"""A name; in the order of its bytes, as Python and SQLite have it."""
_SHA = String(64)


def _run() -> Column[Any]:
    return Column("run_id", _ID, ForeignKey("runs.run_id"), primary_key=True)


def _node(name: str) -> Column[Any]:
    return Column(name, _ID, ForeignKey("nodes.node_id"), primary_key=True)


def _version() -> Column[Any]:
    return Column("version", Integer, primary_key=True, autoincrement=False)


INSTALLATIONS = Table("installations", METADATA, Column("installation_id", String(32), primary_key=True))
NODES = Table(
    "nodes",
    METADATA,
    Column("node_id", _ID, primary_key=True),
    Column("role", _words(Role), nullable=False),
    Column("address", Text, nullable=False),
    Column("capacity", Integer, nullable=False),
    Column("datasets", JsonOf(tuple[str, ...]), nullable=False),
)
RUNS = Table(
    "runs",
    METADATA,
    Column("run_id", _ID, primary_key=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("name", _ID, nullable=False),
    Column("state", _words(RunState), nullable=False, index=True),
    Column("reason", Text, nullable=False),
    Column("spec", Text, nullable=False),
    Column("rounds", Integer, nullable=False),
    Column("version", Integer),
    Column("config", JsonOf(AdapterConfig)),
    Column("created_unix_s", Float, nullable=False),
    Column("best", Integer),
)
MEMBERS = Table(
    "members",
    METADATA,
    _run(),
    _node("node_id"),
    Column("role", _words(Role), nullable=False),
    Column("answer", _words(Answer), nullable=False),
    Column("detail", Text, nullable=False),
    Column("room", Integer, nullable=False),
    Column("train_rows", BigInteger, nullable=False),
    Column("heldout_rows", BigInteger, nullable=False),
    Column("links", JsonOf(tuple[Link, ...]), nullable=False),
    Column("edge_id", _ID, ForeignKey("nodes.node_id")),
    Column("split", String(32)),
    Column("local_steps", Integer, nullable=False),
    Column("base_digest", _SHA, nullable=False),
)
PROFILES = Table(
    "profiles",
    METADATA,
    _run(),
    _node("node_id"),
    Column("client", JsonOf(ClientProfile)),
    Column("row_tokens", Float, nullable=False),
    Column("edge", JsonOf(EdgeProfile)),
    Column("shape", JsonOf(ModelShape)),
)
ROUNDS = Table(
    "rounds",
    METADATA,
    _run(),
    _version(),
    Column("opened_unix_s", Float, nullable=False),
    Column("closed_unix_s", Float),
    Column("sha256", _SHA),
    Column("total_bytes", BigInteger, nullable=False),
    Column("edge_ids", JsonOf(tuple[str, ...]), nullable=False),
    Column("deadline_s", Float, nullable=False),
    Column("anew", Boolean, nullable=False),
    Column("cut", Boolean, nullable=False),
    Column("owed", Boolean, nullable=False),
    Column("score", Float),
)
UPDATES = Table(
    "updates",
    METADATA,
    _run(),
    _version(),
    _node("edge_id"),
    Column("cluster", Integer, primary_key=True, autoincrement=False),
    Column("outdated", Boolean, nullable=False),
    Column("parts", Integer, nullable=False),
    Column("delivery_id", String(64), nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("effective_steps", Float, nullable=False),
    Column("sha256", _SHA, nullable=False),
    Column("reports", JsonOf(tuple[ClientReport, ...]), nullable=False),
    Column("cut_short", Boolean, nullable=False),
    Column("moved", JsonOf(dict[str, tuple[float, ...]]), nullable=False),
)
CLUSTER_ADAPTERS = Table(
    "cluster_adapters",
    METADATA,
    _run(),
    _version(),
    Column("cluster", Integer, primary_key=True, autoincrement=False),
    Column("sha256", _SHA, nullable=False, index=True),
    Column("total_bytes", BigInteger, nullable=False),
)
EVALUATIONS = Table(
    "evaluations",
    METADATA,
    _run(),
    _version(),
    _node("client_id"),
    Column("rows", BigInteger, nullable=False),
    Column("loss", Float, nullable=False),
    Column("accuracy", Float, nullable=False),
    Column("own", JsonOf(ClusterScore)),
)
KEY_HOLDERS = Table(
    "key_holders",
    METADATA,
    _run(),
    _node("client_id"),
    Column("public_key", LargeBinary, nullable=False),
)
KEY_MAKINGS = Table(
    "key_makings",
    METADATA,
    _run(),
    Column("maker_id", _ID, ForeignKey("nodes.node_id"), nullable=False),
    Column("width", Integer, nullable=False),
    Column("basis", LargeBinary),
)
WRAPPED_KEYS = Table(
    "wrapped_keys",
    METADATA,
    _run(),
    _node("client_id"),
    Column("from_client_id", _ID, ForeignKey("nodes.node_id"), nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("nonce", LargeBinary, nullable=False),
    Column("ciphertext", LargeBinary, nullable=False),
)
FINGERPRINTS = Table(
    "fingerprints",
    METADATA,
    _run(),
    _version(),
    _node("client_id"),
    Column("arrived_unix_s", Float, nullable=False),
    Column("asked", JsonOf(tuple[int, ...]), nullable=False),
    Column("dimensions", Integer, nullable=False),
    Column("embeddings", LargeBinary, nullable=False),
    Column("labels", Integer, nullable=False),
    Column("probabilities", LargeBinary),
)
CLUSTERINGS = Table(
    "clusterings",
    METADATA,
    _run(),
    Column("began_unix_s", Float, nullable=False),
    Column("version", Integer),
    Column("clusters", Integer, nullable=False),
    Column("medoids", JsonOf(tuple[str, ...]), nullable=False),
    Column("detail", Text, nullable=False),
)
STANDINGS = Table(
    "standings",
    METADATA,
    _run(),
    _node("client_id"),
    Column("cluster", Integer, nullable=False),
    Column("trust", Float, nullable=False),
    Column("told", Float, nullable=False),
    Column("parts", JsonOf(Parts)),
    Column("low_rounds", Integer, nullable=False),
    Column("set_aside", Boolean, nullable=False),
    Column("detail", Text, nullable=False),
)
AWAY = Table("away", METADATA, _run(), _node("node_id"), Column("detail", Text, nullable=False))
"""Members of runs that have begun for whom nobody waits now, with why; `Transaction.away` reads it."""
COURSES = Table(
    "courses",
    METADATA,
    _run(),
    _node("client_id"),
    Column("values", LargeBinary, nullable=False),
)
EVENTS = Table(
    "events",
    METADATA,
    _run(),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("unix_s", Float, nullable=False),
    Column("body", JsonOf(KeptEvent), nullable=False),
)

TABLE_OF: dict[type, Table] = {
    Installation: INSTALLATIONS,
    Node: NODES,
    Run: RUNS,
    Member: MEMBERS,
    Profile: PROFILES,
    Round: ROUNDS,
    Update: UPDATES,
    ClusterAdapter: CLUSTER_ADAPTERS,
    Evaluation: EVALUATIONS,
    KeyHolder: KEY_HOLDERS,
    KeyMaking: KEY_MAKINGS,
    WrappedKey: WRAPPED_KEYS,
    Fingerprint: FINGERPRINTS,
    Clustering: CLUSTERINGS,
    Standing: STANDINGS,
    Course: COURSES,
    Event: EVENTS,
}
"""Where each record is kept."""
