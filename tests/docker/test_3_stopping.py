"""`docker stop` of each role in the middle of training: it ends in order, well before the engine would kill it."""

import time

import pytest
from containers import NAMED, ROLES

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

GRACE_S = 10


def test_every_role_ends_in_order_within_the_engines_grace(testbed, followed):
    testbed.up(*ROLES)
    run = followed(testbed.spec(training={"rounds": 100, "local_steps": 10}, clustering={"method": "none"}))
    run_id = run.until("^run ").split()[1]
    run.until("round 1 closed")
    took = {role: stopped(testbed, role) for role in ("edge-1", *NAMED, "client", "edge-2")}
    testbed.compose("run", "--rm", "-T", "--no-deps", "submit", "run", "cancel", run_id)
    took["cloud"] = stopped(testbed, "cloud")
    states = {role: testbed.inspect(testbed.container(role))["State"] for role in ROLES}
    assert {role: state["ExitCode"] for role, state in states.items()} == dict.fromkeys(ROLES, 0)
    assert max(took.values()) < GRACE_S - 1, took


def stopped(testbed, role):
    """Seconds that it took."""
    begin = time.monotonic()
    testbed.docker("stop", "-t", str(GRACE_S), testbed.container(role))
    return time.monotonic() - begin
