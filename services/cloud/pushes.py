"""What an edge pushes: how it is checked against its run, and written down once its bytes are there."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from elsa.aggregate.fednova import least_steps
from elsa.errors import (
    ChecksumError,
    MalformedError,
    NotFoundError,
    PermissionDeniedError,
    RoundGivenUpError,
    StaleRoundError,
    TakenError,
)
from elsa.model.adapter_config import AdapterConfig
from elsa.spec import RunSpec
from elsa.wire.adapter import decode_adapter
from services.cloud.counting import check_own, counted
from services.cloud.events import UpdateReceived
from services.cloud.fleet import check_number
from services.cloud.lifecycle import RunState
from services.cloud.records import Answer, Clustering, Member, Role, Run
from services.cloud.round_records import MIXED, MOST_CLUSTERS, ClientReport, Round, Update
from services.cloud.rounds import delivered, working_edges
from services.cloud.runs import member_of
from services.cloud.store import Transaction

log = logging.getLogger(__name__)

Layout = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Push:
    """What an edge says of the adapter that it pushes."""

    run_id: str
    node_id: str
    version: int
    rows: int
    effective_steps: float = 0.0
    total_bytes: int
    sha256: str
    reports: tuple[ClientReport, ...] = ()
    moved: Mapping[str, tuple[float, ...]] = field(default_factory=dict, repr=False)
    cluster: int | None = None
    """Whose aggregate it is; None in a run that does not cluster."""
    parts: int = 1
    """How many pushes make up the edge's delivery."""
    delivery_id: str = ""
    """Names that delivery."""
    cut_short: bool = False
    """An edge round of that delivery was closed by its deadline."""
    clusters_version: int | None = None
    """From which version the clusters hold that its edge knows; None if it does not say."""
    initial: bool = False
    config: AdapterConfig | None = None


def first_of(transaction: Transaction, run_id: str) -> Round:
    """Version 0 of a run. Raises NotFoundError where no edge has pushed it yet."""
    first = transaction.get(Round, run_id=run_id, version=0)
    if first is None or first.sha256 is None:
        raise NotFoundError(f"run {run_id} has no first adapter; push that first")
    return first


def check_size(push: Push, first: Round) -> None:
    """Adapters of a run have the same names and shapes, and so the same size."""
    if push.total_bytes != first.total_bytes:
        raise MalformedError(
            f"header.total_bytes: {push.total_bytes} of {push.node_id}, version 0 has {first.total_bytes}; "
            "push the whole adapter, with the names and shapes of version 0"
        )


def check_steps(run: Run, push: Push) -> None:
    """Raise MalformedError unless clients of a run can have taken the steps of a push: 0 where all take as many.

    And so many that they can be evened out with all others: a round that closes takes what is kept here.
    """
    training = RunSpec.from_yaml(run.spec).training
    most = training.edge_rounds * training.local_steps if training.steps == "proportional" else 0
    least = least_steps(most) if most else 0.0
    if not least * (1 - 1e-9) <= push.effective_steps <= most * (1 + 1e-9):
        bounds = f"from {least:g} to {most}" if most else "0 where all clients take as many steps"
        raise MalformedError(f"header.effective_steps: {push.effective_steps} of {push.node_id}; it must be {bounds}")


def check_new(transaction: Transaction, push: Push) -> bool:
    """Whether a push is wanted; False if it was taken before. Raises as `Adapters.take`."""
    run, member = transaction.run(push.run_id), member_of(transaction, push.run_id, push.node_id)
    if member.role is not Role.EDGE or member.answer in (Answer.REFUSED, Answer.LEFT_OUT):
        raise PermissionDeniedError(f"{push.node_id} is no edge of run {push.run_id} ({member.answer})")
    taken = _taken(transaction, push)
    if taken == push.sha256:
        return False
    if run.state.ended:
        raise RoundGivenUpError(f"run {push.run_id} has ended ({run.state})")
    _check_initial(run, push, taken) if push.initial else _check_update(transaction, run, push, taken)
    return True


def _taken(transaction: Transaction, push: Push) -> str | None:
    """The digest of what was taken in place of a push; another delivery than its own takes it once it is whole."""
    if push.initial:
        first = transaction.get(Round, run_id=push.run_id, version=0)
        return first.sha256 if first else None
    earlier = _earlier(transaction, push)
    in_place = [update for update in earlier if update.cluster == _number(push)]
    if any(update.delivery_id != push.delivery_id for update in earlier):
        in_place = (in_place or earlier) if delivered(earlier) else []
    return in_place[0].sha256 if in_place else None


def _earlier(transaction: Transaction, push: Push) -> list[Update]:
    """What the edge delivered of this version before, all in one delivery."""
    return transaction.all(Update, run_id=push.run_id, version=push.version, edge_id=push.node_id)


def _check_initial(run: Run, push: Push, taken: str | None) -> None:
    if taken is not None:
        raise MalformedError(
            f"header.sha256: the first adapter of {push.node_id} ({push.sha256[:12]}) differs from the one that "
            f"another edge pushed ({taken[:12]}); all edges need the same model files and versions of ELSA"
        )
    if push.version != 0 or push.config is None:
        raise MalformedError("header: an initial adapter has version 0 and a config")
    if run.state is not RunState.ENROLLING:
        raise StaleRoundError(f"run {run.run_id} is {run.state} and takes no first adapter")


def _check_update(transaction: Transaction, run: Run, push: Push, taken: str | None) -> None:
    check_number("header.rows", push.rows, 1, 2**53)
    _check_cluster(transaction, push)
    if push.config is not None:
        raise MalformedError("header.config: only an initial adapter has one; leave it out")
    newest = f"the newest version of run {run.run_id} is {run.version}"
    if run.state is not RunState.TRAINING or run.version is None:
        raise StaleRoundError(f"run {run.run_id} is {run.state} and takes no updates yet")
    if push.version > run.version:
        raise MalformedError(f"header.version: {push.version}; {newest}")
    if push.version < run.version or run.version == run.rounds:
        raise StaleRoundError(f"the round on version {push.version} is over; {newest}; pull that")
    if taken is not None:
        raise TakenError(
            f"another update of {push.node_id} on version {push.version} was taken ({taken[:12]}); "
            f"pull version {push.version + 1}"
        )
    members = transaction.all(Member, run_id=run.run_id)
    if push.node_id not in working_edges(members):
        raise StaleRoundError(f"{push.node_id} has no clients in run {run.run_id}")
    check_own(push.node_id, push.reports, members)


def keep(transaction: Transaction, push: Push, now: float) -> list[str]:
    """Write a push down that `check_new` wants, with its event.

    Returns the digests of what it makes void: updates of a delivery that its edge broke off.
    """
    run = transaction.run(push.run_id)
    if push.initial:
        first = Round(
            run_id=run.run_id,
            version=0,
            opened_unix_s=now,
            closed_unix_s=now,
            sha256=push.sha256,
            total_bytes=push.total_bytes,
            edge_ids=(push.node_id,),
        )
        transaction.put(first)
        transaction.put(replace(run, version=0, config=push.config))
        return []
    updates = transaction.all(Update, run_id=run.run_id, version=push.version)
    void = [update for update in updates if _is_void(update, push)]
    for update in void:
        transaction.delete(update)
    others = [update for update in updates if not _is_void(update, push)]
    update = _update(transaction, push, others)
    transaction.put(update)
    body = UpdateReceived(edge_id=push.node_id, version=push.version, rows=update.rows, reports=update.reports)
    transaction.append(run.run_id, body, now)
    return [earlier.sha256 for earlier in void]


def _is_void(update: Update, push: Push) -> bool:
    """Whether an update is of another delivery of the same edge, which it broke off."""
    return update.edge_id == push.node_id and update.delivery_id != push.delivery_id


def _update(transaction: Transaction, push: Push, others: Sequence[Update]) -> Update:
    """A push as it is kept beside `others` of its version."""
    members = transaction.all(Member, run_id=push.run_id)
    own = counted(push.node_id, push.rows, push.reports, push.moved, members, others)
    if own.rows < push.rows:
        log.warning("%s claims %d rows; its clients that count offered %d", push.node_id, push.rows, own.rows)
    return Update(
        run_id=push.run_id,
        version=push.version,
        edge_id=push.node_id,
        cluster=_number(push),
        outdated=_is_outdated(transaction, push),
        parts=push.parts,
        delivery_id=push.delivery_id,
        rows=own.rows,
        effective_steps=push.effective_steps,
        sha256=push.sha256,
        reports=own.reports,
        cut_short=push.cut_short,
        moved=own.moved,
    )


def _number(push: Push) -> int:
    return MIXED if push.cluster is None else push.cluster


def _check_cluster(transaction: Transaction, push: Push) -> None:
    """Raise MalformedError if a push names a cluster, or is one of several, in a run that has no clusters."""
    clustered = transaction.get(Clustering, run_id=push.run_id) is not None
    if push.cluster is not None and not clustered:
        raise MalformedError(f"header.cluster: {push.cluster}; run {push.run_id} has no clusters: leave it out")
    check_number("header.parts", push.parts, 1, MOST_CLUSTERS if clustered else 1)


def _is_outdated(transaction: Transaction, push: Push) -> bool:
    """Whether a push names a cluster of others than hold now, as an edge may that has not heard of newer ones."""
    made = transaction.get(Clustering, run_id=push.run_id)
    if made is None or push.cluster is None:
        return False
    return push.cluster >= made.clusters or push.clusters_version not in (None, made.version)


def verified_layout(push: Push, data: bytes) -> Layout:
    """Names and shapes of what was pushed. Raises ChecksumError, and MalformedError for what is no adapter."""
    digest = hashlib.sha256(data).hexdigest()
    if digest != push.sha256:
        raise ChecksumError(f"adapter of {push.node_id}: SHA-256 is {digest}, announced {push.sha256}; push it again")
    return layout_of(data)


def layout_of(data: bytes) -> Layout:
    """Names and shapes of an adapter. Raises MalformedError for what is none."""
    return {name: tensor.shape for name, tensor in decode_adapter(data).items()}


def check_layout(push: Push, layout: Layout, expected: Layout) -> None:
    """Raise MalformedError, naming a tensor, unless a push has the names and shapes of version 0."""
    for name in sorted({*layout, *expected}):
        if layout.get(name) != expected.get(name):
            raise MalformedError(
                f"tensor {name} of {push.node_id} is {layout.get(name, 'missing')}, "
                f"in version 0 {expected.get(name, 'missing')}; push the whole adapter"
            )
