"""Training sessions of an edge: opened, taken up again after a broken stream, dropped when idle, finished.

A session holds a slot of its run's trunk until it is finished or dropped. What it trained stays, as the trunk part
of its client's update, until that is pushed or the round is over. All methods may be called from any thread.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from elsa.errors import CapacityError, NotFoundError, PermissionDeniedError
from services.edge.session import Committed, Session, is_of
from services.edge.tally import Tally

log = logging.getLogger(__name__)

REPLACED = "its client opened a new one"


class Sessions:
    """All sessions of an edge, at most `capacity` at once. `tally` counts what is done for them."""

    def __init__(self, capacity: int, idle_timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.idle_timeout_s = idle_timeout_s
        self.capacity = capacity
        self.tally = Tally()
        self._clock = clock
        self._lock = threading.Lock()
        self._open: dict[str, Session] = {}
        self._committed: dict[str, Committed] = {}

    @property
    def room(self) -> int:
        """Sessions that could be opened now."""
        with self._lock:
            return self.capacity - len(self._open)

    def make_room(self, run_id: str, client: str) -> None:
        """Drop what the client has open in the run, and see that there is room. Raises CapacityError."""
        with self._lock:
            stale = self._of(run_id, client)
        for session in stale:
            self.drop(session, REPLACED)
        if self.room < 1:
            raise CapacityError(self._full())

    def add(self, session: Session) -> None:
        """Keep a new session instead of any other of its client in the run.

        Raises CapacityError, giving the slot back, if the last place was taken meanwhile.
        """
        with self._lock:
            stale = self._of(session.agreed.run_id, session.agreed.client)
            for other in stale:
                del self._open[other.session_id]
            full = len(self._open) >= self.capacity
            if not full:
                session.last_s = self._clock()
                self._open[session.session_id] = session
        for other in stale:
            self._end(other, REPLACED)
        if full:
            session.release()
            raise CapacityError(self._full())

    def resume(self, token: str, run_id: str, client: str, cancel: Callable[[], object]) -> Session:
        """The session of that token, from the stream that it was on to the one that `cancel` ends.

        Raises NotFoundError if it was dropped or never was.
        """
        with self._lock:
            for session in self._open.values():
                if is_of(session, token, run_id, client):
                    break
            else:
                raise NotFoundError("no session with this resume token; it was dropped: open a new one")
            before, session.cancel = session.cancel, cancel
            session.last_s = self._clock()
        before()
        return session

    def open_of(self, session_id: str, run_id: str, client: str) -> Session:
        """An open session by its id. Raises NotFoundError; PermissionDeniedError for another client's."""
        with self._lock:
            session = self._open.get(session_id)
        if session is None or session.agreed.run_id != run_id:
            raise NotFoundError(f"session {session_id[:80]!r} is not open; it has finished or was dropped")
        if session.agreed.client != client:
            raise PermissionDeniedError(f"session {session_id} is not {client}'s")
        return session

    def touch(self, session: Session) -> None:
        """A message came."""
        with self._lock:
            session.last_s = self._clock()

    @contextmanager
    def computing(self, session: Session) -> Iterator[None]:
        """Within it the session waits for this edge, not for its client, and is not idle."""
        with self._lock:
            session.computing += 1  # an old stream's work may overlap that of the one that took the session up
        try:
            yield
        finally:
            with self._lock:
                session.last_s = self._clock()
                session.computing -= 1

    @contextmanager
    def streaming(self, session: Session) -> Iterator[None]:
        """Within it a stream of the session's client is served."""
        with self._lock:
            session.streams += 1  # an old stream may end after the one that took the session up began
        try:
            yield
        finally:
            with self._lock:
                session.streams -= 1

    def at_work(self, run_id: str) -> tuple[bool, frozenset[str]]:
        """Whether a client of the run is on a stream of its session, and whose sessions have finished."""
        with self._lock:
            streaming = any(s.streams for s in self._open.values() if s.agreed.run_id == run_id)
            done = (kept.agreed for kept in self._committed.values())
            return streaming, frozenset(agreed.client for agreed in done if agreed.run_id == run_id)

    def check(self, session: Session, cancel: Callable[[], object]) -> None:
        """Raise NotFoundError if the session was dropped, or is no more on the stream that `cancel` ends.

        To be asked on the compute thread before a session's slot is used: once a session is dropped, its slot may
        be another's.
        """
        with self._lock:
            if session.session_id not in self._open:
                raise NotFoundError("the session was dropped; open a new one")
            if session.cancel is not cancel:
                raise NotFoundError("the session was taken up again on a newer stream; go on there")

    def drop(self, session: Session, why: str) -> None:
        """End a session and its stream; it commits nothing."""
        with self._lock:
            if self._open.pop(session.session_id, None) is None:
                return
        self._end(session, why)

    def fail(self, session: Session, why: str, cancel: Callable[[], object]) -> None:
        """End a session whose stream ends by itself with an error, unless it has moved on from that stream."""
        with self._lock:
            if session.cancel is not cancel or self._open.pop(session.session_id, None) is None:
                return
        log.info("session of %s failed: %s", session.agreed.client, why)
        self.tally.ended("failed")
        session.release()

    def commit(
        self, session: Session, tensors: Mapping[str, np.ndarray], answer: bytes, cancel: Callable[[], object]
    ) -> None:
        """End a session and keep what it trained, in place of what its client committed before in this run.

        Raises NotFoundError if it was dropped meanwhile, or taken up again on another stream than `cancel`'s.
        """
        agreed = session.agreed
        kept = Committed(
            session_id=session.session_id,
            resume_token=session.resume_token,
            agreed=agreed,
            answer=answer,
            tensors=tensors,
        )
        with self._lock:
            if session.cancel is not cancel:
                raise NotFoundError("the session was taken up again on a newer stream; go on there")
            if self._open.pop(session.session_id, None) is None:
                raise NotFoundError("the session was dropped before it finished; open a new one")
            older = [
                key
                for key, other in self._committed.items()
                if (other.agreed.run_id, other.agreed.client) == (agreed.run_id, agreed.client)
            ]
            for key in older:
                del self._committed[key]
            self._committed[session.session_id] = kept
        self.tally.ended("committed")
        session.release()

    def committed(self, session_id: str) -> Committed:
        """What a finished session trained. Raises NotFoundError."""
        with self._lock:
            if session_id not in self._committed:
                raise NotFoundError(f"session {session_id} is unknown or not finished; train and finish it first")
            return self._committed[session_id]

    def committed_by(self, token: str, run_id: str, client: str) -> Committed | None:
        """What the session of that resume token committed, if it did."""
        with self._lock:
            return next((kept for kept in self._committed.values() if is_of(kept, token, run_id, client)), None)

    def forget_round(self, run_id: str) -> None:
        """A round of the run is over: drop its sessions and what they committed."""
        with self._lock:
            gone = [key for key, kept in self._committed.items() if kept.agreed.run_id == run_id]
            for key in gone:
                del self._committed[key]
            stale = [session for session in self._open.values() if session.agreed.run_id == run_id]
            for session in stale:
                del self._open[session.session_id]
        if stale:
            clients = ", ".join(sorted({session.agreed.client for session in stale}))
            log.info(
                "run %s: what %s trained in this round counts no more: it is over, or was a warm-up", run_id, clients
            )
        for session in stale:
            self._drop(session)

    def drop_idle(self) -> None:
        """Drop every session that has had no message for `idle_timeout_s` seconds."""
        limit = self._clock() - self.idle_timeout_s
        with self._lock:
            idle = [s for s in self._open.values() if s.last_s < limit and not s.computing]
            for session in idle:
                del self._open[session.session_id]
        for session in idle:
            self._end(session, f"no message for {self.idle_timeout_s:g} s")
            session.forget()

    def _full(self) -> str:
        return f"all {self.capacity} sessions are taken; try again, or raise this edge's capacity"

    def _of(self, run_id: str, client: str) -> list[Session]:
        return [s for s in self._open.values() if (s.agreed.run_id, s.agreed.client) == (run_id, client)]

    def _end(self, session: Session, why: str) -> None:
        log.info("session of %s dropped: %s", session.agreed.client, why)
        self._drop(session)

    def _drop(self, session: Session) -> None:
        self.tally.ended("dropped")
        session.cancel()
        session.release()
