"""An edge's figures for a monitor, as docs/metrics.md lists them, read when they are asked for."""

from collections.abc import Iterator

from prometheus_client.core import Metric

from services.edge.run import EdgeRuns
from services.rpc.metrics import count, counter, gauge, gauges


class EdgeMetrics:
    """Of one edge."""

    def __init__(self, runs: EdgeRuns) -> None:
        self._runs = runs

    def collect(self) -> Iterator[Metric]:
        """See docs/metrics.md."""
        sessions, places = self._runs.sessions, self._runs.places
        yield gauge("elsa_edge_sessions", "Training sessions that are open", sessions.capacity - sessions.room)
        yield gauge("elsa_edge_capacity", "The most there may be", sessions.capacity)
        yield gauge("elsa_edge_runs", "Runs that are served", len(places))
        served = {run_id: place for run_id, place in places.items() if place[0] >= 0}
        versions = [((run_id,), version) for run_id, (version, _) in served.items()]
        yield gauges("elsa_edge_run_version", "Version that clients train from", ("run_id",), versions)
        rounds = [((run_id,), edge_round) for run_id, (_, edge_round) in served.items()]
        yield gauges("elsa_edge_run_edge_round", "Edge rounds done on top of it", ("run_id",), rounds)
        yield from self._work()

    def _work(self) -> Iterator[Metric]:
        tally = self._runs.sessions.tally
        moved = [("up", tally.bytes.up), ("down", tally.bytes.down)]
        ended = tally.sessions.items()
        yield count("elsa_edge_steps", "Optimizer steps of the blocks held here", tally.steps)
        yield counter("elsa_edge_seconds", "Seconds for sessions by phase", "phase", tally.seconds.items())
        yield counter("elsa_edge_payload_bytes", "Messages of training sessions", "direction", moved)
        yield counter("elsa_edge_sessions_ended", "Sessions that ended, by how", "how", ended)
