"""Runs as operators and clients see them: submit, look, cancel, join, report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from elsa.errors import (
    CapacityError,
    MalformedError,
    NotFoundError,
    PermissionDeniedError,
    RoundGivenUpError,
    SpecError,
    StaleRoundError,
)
from elsa.spec import RunSpec
from services.cloud.bases import check_base, refuse_others
from services.cloud.changes import Changes
from services.cloud.engine import Engine
from services.cloud.evaluations import check_evaluation, keep_evaluation
from services.cloud.events import AwayMember, Metrics, NodeJoined, StateChanged
from services.cloud.export import Made
from services.cloud.fleet import known_node
from services.cloud.leaving import LEAVABLE, leave
from services.cloud.lifecycle import RunState
from services.cloud.offers import (
    ClientOffer,
    Refusal,
    Reply,
    answered,
    check_edges,
    check_public_key,
    profile_of,
    summary,
)
from services.cloud.records import Answer, KeyHolder, Member, Role, Run
from services.cloud.round_records import ClusterAdapter, Evaluation, Round
from services.cloud.rounds import totals
from services.cloud.store import Store, Transaction

PAGE = 100
MOST_IN_A_PAGE = 1000


@dataclass(frozen=True, kw_only=True)
class RunView:
    """A run with who takes part and how good its versions are."""

    run: Run
    client_ids: tuple[str, ...]
    edge_ids: tuple[str, ...]
    evaluations: tuple[Metrics, ...]
    away: tuple[AwayMember, ...] = ()
    """Those for whom nobody waits now, in order of their names."""


class Runs:
    """What may be done with runs. Facts are written here; `engine` draws the consequences."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        changes: Changes,
        *,
        max_open_runs: int,
        max_spec_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self._store, self._engine, self._changes = store, engine, changes
        self._max_open_runs, self._max_spec_bytes = max_open_runs, max_spec_bytes
        self._clock = clock

    def submit(self, text: str) -> str:
        """Make a run of a specification in YAML; its id. Raises SpecError, CapacityError.

        It is kept with every default filled in, so that who reads it, in whatever language, needs to know none.
        """
        self._check_size(text)
        spec, now = RunSpec.from_yaml(text), self._clock()
        text = spec.to_yaml()
        self._check_size(text)
        with self._store.transaction() as transaction:
            if len(transaction.open_runs()) >= self._max_open_runs:
                raise CapacityError(f"{self._max_open_runs} runs are open already; cancel one or wait")
            number = transaction.next_number()
            run = Run(
                run_id=f"{spec.name}-{number}",
                number=number,
                name=spec.name,
                state=RunState.PENDING,
                spec=text,
                rounds=spec.training.rounds,
                created_unix_s=now,
            )
            transaction.put(run)
            transaction.append(run.run_id, StateChanged(state=run.state), now)
        self._engine.kick(run.run_id)
        return run.run_id

    def _check_size(self, text: str) -> None:
        size = len(text.encode())
        if size > self._max_spec_bytes:
            raise SpecError(
                f"spec: {size} bytes with its defaults filled in; at most {self._max_spec_bytes} are taken; "
                "shorten it, or raise max_spec_bytes of the cloud"
            )

    def get(self, run_id: str) -> RunView:
        """One run. Raises NotFoundError."""
        with self._store.transaction() as transaction:
            run = transaction.run(run_id)
            return _view(transaction, run, transaction.all(Evaluation, run_id=run_id))

    def page(self, size: int, token: str) -> tuple[Sequence[RunView], bool]:
        """Runs in brief, newest first, and whether more follow: without specifications, with the newest metrics.

        `size` 0 means 100; `token` is empty, or what `page_token` says of the last run of the page before.
        Raises MalformedError.
        """
        if token and not (token.isascii() and token.isdecimal() and len(token) < 10):
            raise MalformedError(f"page_token: {token[:80]!r}; send next_page_token of the page before, or none")
        limit = min(size or PAGE, MOST_IN_A_PAGE)
        with self._store.transaction() as transaction:
            found = transaction.runs(int(token) if token else None, limit + 1)
            return [_brief(transaction, run) for run in found[:limit]], len(found) > limit

    def version(self, run_id: str, version: int | None, cluster: int | None = None) -> tuple[Run, Made]:
        """A run and its adapter of `version`, None: the best or newest, or a cluster's. Raises NotFoundError."""
        with self._store.transaction() as transaction:
            run = transaction.run(run_id)
            wanted = _to_export(run) if version is None else version
            made = _made(transaction, run_id, wanted, cluster) if wanted is not None else None
        if made is None or made.sha256 is None:
            newest = "it has none yet" if run.version is None else f"the newest is {run.version}"
            raise NotFoundError(f"run {run_id} has no version {'to export' if wanted is None else wanted}; {newest}")
        return run, Made(version=made.version, sha256=made.sha256, cluster=cluster)

    def cancel(self, run_id: str) -> None:
        """End a run. Raises NotFoundError, and StaleRoundError if it has ended already."""
        try:
            self._engine.end(run_id, RunState.CANCELLED, self._clock(), "cancelled by an operator")
        except RoundGivenUpError as error:
            raise StaleRoundError(f"run {run_id} has ended already; nothing to cancel") from error

    def join(self, run_id: str, node_id: str, reply: Reply) -> None:
        """Take a node's answer to the offer of a run; a later one replaces it until the run has its members.

        From then on a refusal means that a member leaves, with its reason.

        Raises:
            NotFoundError: an unknown run or node.
            PermissionDeniedError: a run that was not offered to this node.
            MalformedError: an answer that is not of this node's role or breaks its bounds.
            CheckpointError: another base than that of the run's edges.
            StaleRoundError, RoundGivenUpError: a run that began without it, or has ended.
        """
        changed = [node_id]
        with self._store.transaction() as transaction:
            run, before = transaction.run(run_id), member_of(transaction, run_id, node_id)
            if run.state.ended:
                raise RoundGivenUpError(f"run {run_id} has ended ({run.state})")
            if run.state is RunState.ENROLLING:
                changed += _answer(transaction, run, before, reply, self._clock())
            elif run.state in LEAVABLE and isinstance(reply, Refusal):
                leave(transaction, before, reply, self._clock())
            else:
                raise StaleRoundError(f"run {run_id} is {run.state} and takes no more answers; wait for the next")
        self._changes.notify(("events", run_id), *(("node", name) for name in changed))
        if before.role is Role.EDGE or run.state is not RunState.ENROLLING:
            self._engine.announce(run_id)
        self._engine.kick(run_id)

    def report_evaluation(self, evaluation: Evaluation) -> None:
        """Take a client's evaluation; a second one of the same version is dropped.

        Raises:
            NotFoundError: an unknown run or client.
            PermissionDeniedError: a client that does not take part.
            MalformedError: a version that is not there, or metrics out of bounds.
            StaleRoundError: a run that does not train.
        """
        run_id = evaluation.run_id
        check_evaluation(evaluation)
        with self._store.transaction() as transaction:
            run, client = transaction.run(run_id), member_of(transaction, run_id, evaluation.client_id)
            if not keep_evaluation(transaction, run, client, evaluation, self._clock()):
                return
        self._changes.notify(("events", run_id))
        self._engine.kick(run_id)


def _made(transaction: Transaction, run_id: str, version: int, cluster: int | None) -> Round | ClusterAdapter | None:
    """What there is of a version, or of a version of a cluster. Raises NotFoundError for a cluster without one."""
    if cluster is None:
        return transaction.get(Round, run_id=run_id, version=version)
    there = transaction.all(ClusterAdapter, run_id=run_id, version=version)
    found = next((kept for kept in there if kept.cluster == cluster), None)
    if found is None and transaction.get(Round, run_id=run_id, version=version) is not None:
        known = ", ".join(str(kept.cluster) for kept in there) or "none"
        raise NotFoundError(
            f"run {run_id} has no adapter of cluster {cluster} at version {version}; there are: {known}"
        )
    return found


def _to_export(run: Run) -> int | None:
    return run.version if run.best is None else run.best


def member_of(transaction: Transaction, run_id: str, node_id: str) -> Member:
    """A node as a member of a run. Raises NotFoundError, PermissionDeniedError if it was not offered it."""
    transaction.run(run_id)
    known_node(transaction, node_id)
    member = transaction.get(Member, run_id=run_id, node_id=node_id)
    if member is None:
        raise PermissionDeniedError(f"run {run_id} was not offered to {node_id}")
    return member


def _answer(transaction: Transaction, run: Run, before: Member, reply: Reply, now: float) -> list[str]:
    """Write an answer down; the names of others whom it makes refused."""
    member = answered(before, reply)
    check_base(transaction, run, member)
    refused = refuse_others(transaction, run, member, now) if member.role is Role.EDGE else []
    if isinstance(reply, ClientOffer):
        members = transaction.member_ids(before.run_id)
        check_edges(reply, {name for name, (role, _) in members.items() if role is Role.EDGE})
        _keep_public_key(transaction, run, member.node_id, reply.public_key)
    if not isinstance(reply, Refusal) and (spec := RunSpec.from_yaml(run.spec)).plans_splits:
        transaction.put(profile_of(spec, member, reply))
    if member != before:
        transaction.put(member)
        event = NodeJoined(node_id=member.node_id, detail=summary(member), accepted=member.answer is Answer.JOINED)
        transaction.append(member.run_id, event, now)
    return refused


def _keep_public_key(transaction: Transaction, run: Run, client_id: str, public_key: bytes) -> None:
    """Keep a client's public key where its run shares a key; a client that restarted has a new one."""
    if RunSpec.from_yaml(run.spec).privacy.shares_key:
        check_public_key(public_key)
        transaction.put(KeyHolder(run_id=run.run_id, client_id=client_id, public_key=public_key))


def page_token(view: RunView) -> str:
    """What asks for the page after this run."""
    return str(view.run.number)


def _brief(transaction: Transaction, run: Run) -> RunView:
    return _view(transaction, replace(run, spec=""), transaction.newest_evaluations(run.run_id))


def _view(transaction: Transaction, run: Run, evaluations: Sequence[Evaluation]) -> RunView:
    members = transaction.member_ids(run.run_id)
    return RunView(
        run=run,
        client_ids=tuple(name for name, is_a in members.items() if is_a == (Role.CLIENT, Answer.JOINED)),
        edge_ids=tuple(name for name, is_a in members.items() if is_a == (Role.EDGE, Answer.JOINED)),
        evaluations=totals(evaluations),
        away=() if run.state.ended else _away(transaction, run.run_id),
    )


def _away(transaction: Transaction, run_id: str) -> tuple[AwayMember, ...]:
    return tuple(AwayMember(node_id=name, detail=why) for name, why in transaction.away(run_id).items())
