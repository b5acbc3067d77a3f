"""`docker compose restart` of everything in the middle of training: the run goes on, and it is the same run."""

import re

import pytest
from containers import ROLES

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

ROUNDS = 4


def test_a_run_outlives_a_restart_of_everything(testbed):
    spec = testbed.spec(training={"rounds": ROUNDS, "local_steps": 10}, clustering={"method": "none"})
    testbed.up(*ROLES)
    testbed.compose("up", "-d", "submit", ELSA_SPEC=spec)
    testbed.wait_said("submit", "round 1 closed", timeout_s=180)
    testbed.compose("restart", ELSA_SPEC=spec)
    assert testbed.docker("wait", testbed.container("submit"), timeout_s=300).stdout.strip() == "0", testbed.logs()
    said = testbed.docker("logs", testbed.container("submit")).stdout
    (run_id,) = set(re.findall(r"^run (\S+)$", said, re.MULTILINE))
    before, again, after = said.partition(f"goes on with run {run_id}")
    assert again
    closed = [int(number) for number in re.findall(r"round (\d+) closed", after)]  # from the first event on
    assert closed == list(range(1, ROUNDS + 1))
    assert "run is COMPLETED" in after and "run is COMPLETED" not in before
    assert f"adapters/{run_id} is written" in after


def test_what_is_stopped_says_so_and_nothing_that_passes_is_a_warning(testbed):
    said = testbed.logs(*ROLES)
    stopped = re.findall(r"run \S+: stops here; it has not ended", said)
    assert len(stopped) >= len(ROLES) - 1  # all but the cloud
    warnings = [line for line in said.splitlines() if "WARNING" in line]
    passing = "not assigned to this edge|not at this edge|metrics|was cancelled"
    assert [line for line in warnings if re.search(passing, line)] == []
