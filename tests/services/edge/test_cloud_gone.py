"""An edge whose cloud is gone is ready still, for a restart would not help it, and tells since when."""

import time
from contextlib import ExitStack

from fleet_harness import System, cloud_serving
from scraping import figure, scraped

from services.rpc.dial import LOOPBACK

BEAT_S = 0.5
GONE_S = 3 * BEAT_S


def test_a_node_stays_ready_without_its_cloud_and_tells_when_that_last_answered(tmp_path):
    with ExitStack() as stack:
        with cloud_serving(tmp_path, heartbeat_s=BEAT_S) as address:
            edge = System(address, stack, LOOPBACK, tmp_path).edge("edge-1", metrics_port=0, patience_s=60).node
            place = edge.monitoring.metrics.address
            first = figure(scraped(place), "elsa_heartbeat_seconds")
            beaten = until(place, lambda samples: figure(samples, "elsa_heartbeat_seconds") > first)
        last = figure(beaten, "elsa_heartbeat_seconds")
        gone = until(place, lambda samples: time.time() - figure(samples, "elsa_heartbeat_seconds") > GONE_S)
    assert (figure(beaten, "elsa_ready"), figure(gone, "elsa_ready")) == (1, 1)
    assert figure(gone, "elsa_heartbeat_seconds") >= last


def until(place, holds):
    """What is told once that holds."""
    while not holds(samples := scraped(place)):
        pass
    return samples
