"""What nodes and operators wait for: a node's assignments, and a run's events with live progress."""

from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from services.cloud.changes import Changes
from services.cloud.events import Event, NodeProgress
from services.cloud.fleet import MOST, known_node
from services.cloud.keys import Exchange, exchange_of
from services.cloud.lifecycle import RunState
from services.cloud.records import Answer, Clustering, Member, Node, Role, Run, Standing
from services.cloud.store import Store, Transaction


@dataclass(frozen=True, kw_only=True)
class EdgePeer:
    """An edge, as a client needs to know it."""

    edge_id: str
    address: str


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a node has to do with one run."""

    run: Run
    edges: tuple[EdgePeer, ...]
    client_ids: tuple[str, ...]
    train_rows: tuple[int, ...] = ()
    """Of an edge's clients, in their order: what each offered."""
    away: tuple[bool, ...] = ()
    """Likewise: whether nobody waits for it now."""
    keys: Exchange | None = None
    standings: tuple[Standing, ...] = ()
    """Of an edge's clients, in their order, once the run has clustered."""
    clusters_version: int | None = None
    """For an edge: from which version these clusters hold; None where the run has not clustered."""
    share: Member | None = None
    """For a client whose split is planned: itself, once it has one."""


async def watch_assignments(
    store: Store, changes: Changes, node_id: str
) -> AsyncGenerator[tuple[Assignment, ...], None]:
    """All assignments of a node, at once and after every change. Raises NotFoundError, DrainingError."""
    last = None
    with store.transaction() as transaction:
        known_node(transaction, node_id)
    while True:
        change = changes.next(("node", node_id))
        with store.transaction() as transaction:
            found = transaction.memberships(node_id)
            now = tuple(_assignment(transaction, run, member) for run, member in found)
        if now != last:
            yield now
            last = now
        else:
            await change.wait()


def _assignment(transaction: Transaction, run: Run, member: Member) -> Assignment:
    if member.role is Role.EDGE:
        own = transaction.all(Member, run_id=run.run_id, edge_id=member.node_id)
        away = transaction.away(run.run_id)
        standings = tuple(transaction.standings_at(run.run_id, member.node_id))
        made = transaction.get(Clustering, run_id=run.run_id)
        version = made.version if made else None
        return Assignment(
            run=run,
            edges=(),
            client_ids=tuple(client.node_id for client in own),
            train_rows=tuple(client.train_rows for client in own),
            away=tuple(client.node_id in away for client in own),
            standings=standings,
            clusters_version=version,
        )
    asked = [member.edge_id] if member.edge_id else []
    if run.state is RunState.ENROLLING:
        edges = transaction.all(Member, run_id=run.run_id, role=Role.EDGE)
        asked = [edge.node_id for edge in edges if edge.answer in (Answer.OFFERED, Answer.JOINED)]
    keys = exchange_of(transaction, run, member.node_id) if run.state is RunState.TRAINING else None
    peers = tuple(_peer(transaction, edge_id) for edge_id in asked)
    share = member if member.edge_id and member.local_steps else None
    return Assignment(run=run, edges=peers, client_ids=(), keys=keys, share=share)


def _peer(transaction: Transaction, edge_id: str) -> EdgePeer:
    node = transaction.get(Node, node_id=edge_id)
    return EdgePeer(edge_id=edge_id, address=node.address if node else "")


class RunWatch:
    """Streams of runs' events. Progress reaches those who watch at that moment, the newest few hundred at most."""

    def __init__(self, store: Store, changes: Changes, *, clock: Callable[[], float]) -> None:
        self._store, self._changes, self._clock = store, changes, clock
        self._live: defaultdict[str, list[deque[Event]]] = defaultdict(list)

    def progress(self, body: NodeProgress) -> None:
        """Show a node's progress to those who watch its run; of a node that is not in the run, nothing."""
        if not self._live.get(body.run_id):
            return
        with self._store.transaction() as transaction:
            if transaction.get(Member, run_id=body.run_id, node_id=body.node_id) is None:
                return
        event = Event(run_id=body.run_id, sequence=0, unix_s=self._clock(), body=body)
        for queue in self._live[body.run_id]:
            queue.append(event)
        self._changes.notify(("events", body.run_id))

    async def watch(self, run_id: str, after: int, *, so_far: bool = False) -> AsyncGenerator[Event, None]:
        """Kept events past sequence number `after`, then new ones as they come, until the run has ended.

        With `so_far` none is waited for. Raises NotFoundError, DrainingError.
        """
        with self._store.transaction() as transaction:
            transaction.run(run_id)
        live: deque[Event] = deque(maxlen=500)
        after = min(after, MOST)
        self._live[run_id].append(live)
        try:
            while True:
                change = self._changes.next(("events", run_id))
                with self._store.transaction() as transaction:
                    ended, kept = transaction.run(run_id).state.ended, transaction.events(run_id, after)
                shown = [*kept, *live]
                live.clear()
                for event in shown:
                    yield event
                    after = event.sequence or after
                if not kept:
                    if ended or so_far:
                        return
                    await change.wait()
        finally:
            others = [queue for queue in self._live.pop(run_id) if queue is not live]  # equal ones may be others'
            if others:
                self._live[run_id] = others
