"""A client's figures for a monitor, as docs/metrics.md lists them, read when they are asked for."""

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric

from services.client.tally import Tally
from services.rpc.metrics import count, counter, gauge, gauges
from services.rpc.node import CloudLink


class ClientMetrics:
    """Of one client.

    Args:
        runs: how many it is in.
    """

    def __init__(self, link: CloudLink, tally: Tally, runs: Callable[[], int]) -> None:
        self._link = link
        self._tally = tally
        self._runs = runs

    def collect(self) -> Iterator[Metric]:
        """See docs/metrics.md."""
        told, newest = self._link.told, self._tally.newest.items()
        run = ("run_id",)
        versions = [((each.run_id,), each.version) for each in told]
        steps = [((each.run_id,), each.step) for each in told]
        losses = [((run_id,), loss) for run_id, (_, loss) in newest]
        rows = [((run_id,), trained_on) for run_id, (trained_on, _) in newest]
        yield gauge("elsa_client_runs", "Runs that this client is in", self._runs())
        yield gauges("elsa_client_run_version", "Version that it trains from or evaluates", run, versions)
        yield gauges("elsa_client_run_step", "Steps of the round that it is in", run, steps)
        yield gauges("elsa_client_loss", "Mean training loss of its newest round", run, losses)
        yield gauges("elsa_client_rows", "Rows that it trains on", run, rows)
        yield from self._work()

    def _work(self) -> Iterator[Metric]:
        tally = self._tally
        moved = [("up", tally.bytes.up), ("down", tally.bytes.down)]
        yield count("elsa_client_rounds", "Edge rounds trained and pushed", tally.rounds)
        yield count("elsa_client_steps", "Steps of those rounds", tally.steps)
        yield counter("elsa_client_seconds", "Seconds of those rounds by phase", "phase", tally.seconds.items())
        yield counter("elsa_client_payload_bytes", "Messages of those rounds' sessions", "direction", moved)
