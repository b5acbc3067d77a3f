"""The runs that an edge takes part in: each with its trunk and its rounds, all sharing the edge's sessions."""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from elsa.errors import ElsaError, NotFoundError
from elsa.model.architecture import trunk_names
from elsa.privacy.turns import Turns
from elsa.spec import RunSpec
from elsa.train.messages import Chunks
from elsa.v1 import split_pb2 as pb
from elsa.wire.kept import Shelf
from services.edge.answers import Answers
from services.edge.base import RunBase
from services.edge.ends import ClientEnds
from services.edge.opening import agreed_from_proto, checked_calibrations, turns_from_proto
from services.edge.own_trunks import NamesOf, none_of
from services.edge.rooms import Rooms
from services.edge.rounds import EdgeRounds
from services.edge.served import Place
from services.edge.session import Agreed, Committed, Session
from services.edge.sessions import Sessions
from services.edge.timetable import Timetable
from services.edge.trunk import EdgeTrunk
from services.edge.worker import Worker


class EdgeRun:
    """One run at this edge.

    Args:
        base_digest: names the frozen base of `trunk`; empty where that is not known.
    """

    def __init__(
        self,
        run_id: str,
        spec: RunSpec,
        trunk: EdgeTrunk,
        sessions: Sessions,
        shelf: Shelf,
        base_digest: str = "",
    ) -> None:
        self.run_id = run_id
        self.spec = spec
        self.trunk = trunk
        self.sessions = sessions
        told = spec.seed if spec.trust.enabled else None
        most = spec.training.local_steps if spec.training.steps == "proportional" else None
        self.rounds = EdgeRounds(spec.rounds.quorum, own_names(spec, trunk), seed=told, most_steps=most)
        self.timetable = Timetable(spec.training.edge_rounds)
        self.ends = ClientEnds(spec, trunk.segment.width, shelf)
        segment = trunk.segment
        self.base = RunBase(spec, trunk.checkpoint, segment.blocks_total, sorted(segment.owned), base_digest)

    def open_session(
        self, opening: pb.TrainOpen, feed: Chunks, worker: Worker, cancel: Callable[[], object]
    ) -> Session:
        """A new session for the current round, or the one of the resume token, on the stream that `cancel` ends.

        Args:
            feed: brings the chunks that follow the opening.

        Raises:
            MalformedError: the opening breaks its contract.
            StaleRoundError, PermissionDeniedError: it is for another round, or by another edge's client.
            NotFoundError: there is no session of the resume token.
            CapacityError: the edge is full.
            CheckpointError: its client has another base.
        """
        self.base.check_same(opening.client_id, opening.base_digest)
        known, width = checked_calibrations(opening.calibrations), self.trunk.segment.width
        ssop = opening.ssop if opening.HasField("ssop") else None
        turns = turns_from_proto(ssop, self.spec, width, feed)
        if opening.resume_token:
            session = self.sessions.resume(opening.resume_token, self.run_id, opening.client_id, cancel)
            worker.run(lambda: session.exchange.reopen(known))
            return session
        agreed = agreed_from_proto(opening, self.spec, width)
        start = self._start_of(agreed)
        self.trunk.check_split(agreed.split, "open.split")
        self.sessions.make_room(self.run_id, agreed.client)
        session = self._made(agreed, start, known, turns, worker, cancel)
        self.sessions.add(session)
        try:
            self._start_of(agreed)
        except ElsaError:  # the round closed while the session was made, too late to see it
            self.sessions.drop(session, "the round is over")
            raise
        return session

    def _start_of(self, agreed: Agreed) -> Mapping[str, np.ndarray]:
        """What a session starts from. Raises StaleRoundError, PermissionDeniedError if its client may not open it."""
        return self.rounds.adapter_of(agreed.client, agreed.version, agreed.edge_round)

    def _made(
        self,
        agreed: Agreed,
        start: Mapping[str, np.ndarray],
        known: Sequence[bytes],
        turns: Turns | None,
        worker: Worker,
        cancel: Callable[[], object],
    ) -> Session:
        """A session with a slot of the trunk, that `worker` gives back when it is released."""
        slot, core = worker.run(lambda: self.trunk.open_session(agreed.split, agreed.window, start)).value
        end = worker.run(lambda: self.ends.of(agreed.client, agreed.split)).value
        exchange = worker.run(lambda: end.begin(agreed.split, known, turns)).value
        answers = Answers(agreed.window)

        def close() -> None:
            answers.clear()
            self.trunk.close_session(slot, core)

        return Session(
            agreed=agreed,
            trunk=core,
            end=end,
            exchange=exchange,
            answers=answers,
            release=lambda: worker.post(close),
            forget=lambda: worker.post(lambda: end.ended(exchange)),
            cancel=cancel,
        )

    @property
    def at_rest(self) -> bool:
        """Whether an end would cut off neither a client nor what is made of what clients delivered."""
        streaming, finished = self.sessions.at_work(self.run_id)
        return self.rounds.at_rest(finished) and not streaming

    def finished(self, opening: pb.TrainOpen) -> Committed | None:
        """What the session of the resume token committed, if it finished and only its answer was lost."""
        if not opening.resume_token:
            return None
        return self.sessions.committed_by(opening.resume_token, self.run_id, opening.client_id)


def own_names(spec: RunSpec, trunk: EdgeTrunk) -> NamesOf:
    """Which tensors stay with each client: those of the trunk where each has a key of its own that we lack."""
    if not spec.privacy.keeps_trunks:
        return none_of
    split, architecture = spec.split.of(trunk.segment.blocks_total), trunk.segment.architecture
    return lambda names: trunk_names(names, architecture, split)


class EdgeRuns:
    """All runs of an edge, by id."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self.rooms = Rooms(sessions.capacity)
        self._lock = threading.Lock()
        self._runs: dict[str, EdgeRun] = {}

    def get(self, run_id: str) -> EdgeRun:
        """One run. Raises NotFoundError."""
        with self._lock:
            if run_id not in self._runs:
                raise NotFoundError(f"run {run_id!r} is not at this edge; ask the cloud for your assignment")
            return self._runs[run_id]

    def add(self, run: EdgeRun) -> None:
        """Serve a run."""
        with self._lock:
            self._runs[run.run_id] = run

    def drain(self) -> None:
        """Open no round any more."""
        for run in self._all():
            run.rounds.drain()

    @property
    def at_rest(self) -> bool:
        """Whether no run has anything that an end would cut off."""
        return all(run.at_rest for run in self._all())

    @property
    def places(self) -> Mapping[str, Place]:
        """Where each run stands."""
        return {run.run_id: run.rounds.place for run in self._all()}

    def drop_idle(self, worker: Worker) -> None:
        """Drop idle sessions, and have `worker` give back what the trunks of idle runs do not need."""
        self.sessions.drop_idle()
        for run in self._all():
            worker.post(partial(run.trunk.drop_idle, self.sessions.idle_timeout_s))

    def remove(self, run_id: str, gone: ElsaError) -> None:
        """Serve a run no more: its sessions end, and its clients' calls are answered with `gone`."""
        with self._lock:
            run = self._runs.pop(run_id, None)
        self.rooms.release(run_id)
        if run is not None:
            run.rounds.end(gone)
            self.sessions.forget_round(run_id)

    def _all(self) -> list[EdgeRun]:
        with self._lock:
            return list(self._runs.values())
