"""How often nodes are heard: rarely enough for the cloud, often enough for those who wait."""

import pytest
from cloud_harness import run_async, site
from hypothesis import given
from hypothesis import strategies as st

from elsa.v1 import fleet_pb2
from services.cloud.pace import Pace

SECONDS = st.floats(0.01, 600)


@given(shortest_s=SECONDS, most_per_s=st.floats(0.1, 10_000), more_s=SECONDS, nodes=st.integers(0, 200_000))
def test_a_node_that_keeps_its_pace_is_alive_and_one_that_is_gone_is_not(shortest_s, most_per_s, more_s, nodes):
    gone_after_s = 3 * shortest_s + 1 + more_s
    pace = Pace(shortest_s=shortest_s, most_per_s=most_per_s, gone_after_s=gone_after_s)
    assert shortest_s <= pace.heartbeat_s(nodes) < pace.alive_s(nodes) <= gone_after_s * (1 + 1e-9)


@pytest.mark.parametrize(
    ("nodes", "seconds"), [(1, 2.0), (200, 2.0), (1000, 10.0), (1950, 19.5), (5000, 19.0 + 2 / 3)]
)
def test_all_nodes_together_send_so_many_a_second_until_they_may_wait_no_longer(nodes, seconds):
    pace = Pace(shortest_s=2.0, most_per_s=100.0, gone_after_s=60.0)
    assert pace.heartbeat_s(nodes) == pytest.approx(seconds)


@run_async
async def test_a_heartbeat_is_answered_with_the_seconds_that_the_fleet_has_by_now(tmp_path):
    async with site(tmp_path, heartbeat_s=0.5, heartbeats_per_s=2, gone_after_s=100) as at:
        first = await at.fleet.RegisterClient(fleet_pb2.RegisterClientRequest(client_id="c-1"))
        for number in range(2, 7):
            await at.fleet.RegisterClient(fleet_pb2.RegisterClientRequest(client_id=f"c-{number}"))
        later = await at.fleet.Heartbeat(fleet_pb2.HeartbeatRequest(node_id="c-1"))
    assert (first.heartbeat_s, later.heartbeat_s) == (0.5, 3.0)
