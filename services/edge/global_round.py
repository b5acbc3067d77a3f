"""One global round at an edge: its edge rounds, each kept on disk as it closes, so that a restarted edge goes on.

What was delivered is kept until the next version's first edge round has closed, so that an edge that is restarted
before the cloud has closed the round delivers the same again, which counts once, and asks nobody to repeat it.
"""

import logging
import time
from collections.abc import Callable

from elsa.aggregate.fednova import least_steps
from elsa.errors import MalformedError
from elsa.wire.adapter import sha256
from services.edge.delivery import Delivery, reported
from services.edge.own_trunks import Adapter
from services.edge.parts import Closed
from services.edge.run import EdgeRun
from services.edge.saved import Kept, Saved
from services.edge.state import EdgeState
from services.rpc.adapters import Pulled

log = logging.getLogger(__name__)


class GlobalRound:
    """What the clients of a run make of one version at this edge.

    Args:
        pulled: the version.
        adapter: its tensors.
    """

    def __init__(
        self,
        run: EdgeRun,
        state: EdgeState,
        pulled: Pulled,
        adapter: Adapter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._clock = clock
        self._state = state
        self._version = pulled.version
        self._start_sha256 = sha256(pulled.data)
        self._adapter = adapter
        self._count = run.spec.training.edge_rounds
        self._closed = 0
        self._delivery = self._begun()

    def resume(self) -> bool:
        """Whether a restarted edge goes on within this version; else the version is to be opened.

        It does not if a client that had a part in what was made is another edge's by now, where it does the version
        again: it would count twice.

        Tensors that clients keep to themselves, and how long edge rounds take, are taken up in any case. What does
        not fit is ignored with a warning.
        """
        saved = self._state.get(self._run.run_id)
        if saved is None:
            return False
        self._run.timetable.resume(saved.taken_s, saved.cut_s)
        known = (saved.version, saved.start_sha256) == (self._version, self._start_sha256)
        try:
            same = known and saved.edge_rounds > 0 and not self._gone(saved)
            self._run.rounds.resume(saved.kept, self._adapter, same_version=same)
            if same:
                self._delivery.resume(saved.made)
        except MalformedError as error:
            log.warning("run %s: what was kept of version %d is ignored: %s", saved.run_id, saved.version, error)
            self._delivery = self._begun()
            return False
        if same:
            self._closed = min(saved.edge_rounds, self._count)
            said = (saved.run_id, self._version, self._closed, self._count)
            log.info("run %s: goes on in version %d after %d of %d edge rounds", *said)
        return same

    def _gone(self, saved: Saved) -> bool:
        """Whether a client that had a part in this version is not ours any more; logs who."""
        gone = sorted(self._run.rounds.others_of(reported(saved.made)))
        if gone:
            said = (saved.run_id, saved.version, ", ".join(gone))
            log.warning("run %s: version %d begins again here: %s went to another edge meanwhile", *said)
        return bool(gone)

    def close_all(self, all_s: float) -> Delivery:
        """Close the edge rounds that are left, in `all_s` seconds together; what came of all.

        Between them the clusters of an edge whose clients behave alike go on apart, those of a mixture together.

        Raises as `EdgeRounds.close`.
        """
        rounds, ends_s = self._run.rounds, self._clock() + all_s
        while self._closed < self._count:
            if self._closed:
                begin, own = self._delivery.go_on()
                rounds.open(self._version, self._closed, begin, of_clusters=own)
            closed = self._close(ends_s)
            self._run.sessions.forget_round(self._run.run_id)
            self._delivery.add(closed)
            self._closed += 1
            self._state.put(self._saved(rounds.kept()))
        return self._delivery

    def _close(self, ends_s: float) -> Closed:
        """Close the open edge round, so that those after it can be closed by `ends_s` too."""
        timetable, began_s = self._run.timetable, self._clock()
        given_s = timetable.share_s(self._closed, ends_s - began_s)
        closed = self._run.rounds.close(given_s)
        if closed.cut_short:
            timetable.cut_short(self._closed, given_s)
        elif closed.parts:
            timetable.add(self._closed, self._clock() - began_s)
        return closed

    def forget(self) -> None:
        """Nothing of this version was wanted; what clients keep to themselves is kept."""
        kept = self._run.rounds.kept()
        if kept.own:
            self._delivery, self._closed = self._begun(), 0
            self._state.put(self._saved(kept))
        else:
            self._state.drop(self._run.run_id)

    def _begun(self) -> Delivery:
        spec = self._run.spec
        training, together = spec.training, spec.clustering.edges == "balanced"
        least = least_steps(self._count * training.local_steps) if training.steps == "proportional" else 0.0
        return Delivery(self._adapter, together=together, least_steps=least)

    def _saved(self, kept: Kept) -> Saved:
        return Saved(
            edge=self._state.edge,
            run_id=self._run.run_id,
            version=self._version,
            edge_rounds=self._closed,
            start_sha256=self._start_sha256,
            taken_s=self._run.timetable.taken,
            cut_s=self._run.timetable.cut,
            made=self._delivery.made(),
            kept=kept,
        )
