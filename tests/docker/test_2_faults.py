"""Edges that die or are cut off, and a client without memory: the run goes on, and no round is counted twice."""

import re

import pytest
from containers import ROLES

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

ROUNDS = 4
LONG = {"training": {"rounds": ROUNDS, "local_steps": 10}, "clustering": {"method": "none"}}
TOO_LITTLE, MUCH = "380m", {"bottom": 4, "top": 1}
"""Enough for a client that has nothing to do (310 MiB), too little for most of the model besides."""


@pytest.fixture
def running(testbed):
    testbed.up(*ROLES)
    return testbed


def check_rounds(run):
    """Every round was closed once, in order, and no edge delivered one twice."""
    assert run.said(r"round (\d+) closed") == [str(number) for number in range(1, ROUNDS + 1)]
    for edge in ("edge-1", "edge-2"):
        delivered = run.said(rf"{edge} delivers round (\d+):")
        assert delivered == sorted(set(delivered), key=int)


def test_a_killed_edge_comes_back_and_no_round_is_counted_twice(running, followed):
    run = followed(running.spec(**LONG))
    run.until("round 1 closed")
    running.docker("kill", running.container("edge-1"))
    running.docker("start", running.container("edge-1"))
    assert run.end() == 0, "\n".join(run.lines)
    check_rounds(run)


def test_an_edge_that_is_cut_off_for_a_while_is_gone_on_with(running, followed):
    run = followed(running.spec(**LONG))
    edge = running.container("edge-2")
    run.until("round 1 closed")
    networks = list(running.inspect(edge)["NetworkSettings"]["Networks"])
    for network in networks:
        running.docker("network", "disconnect", network, edge)
    running.wait_said("edge-2", "cloud cloud:7400.*(does not answer|unreachable|lost|again)")
    for network in networks:
        running.docker("network", "connect", "--alias", "edge-2", network, edge)
    assert run.end() == 0, "\n".join(run.lines)
    check_rounds(run)


def test_a_client_without_memory_is_refused_with_figures_and_the_others_train(running, followed):
    running.up("client-small", ELSA_SMALL_MEMORY=TOO_LITTLE)
    run = followed(running.spec(split=MUCH, fleet={"min_clients": 3}))
    assert run.end() == 0, "\n".join(run.lines)
    [why] = run.said(r"client-small does not take part: (.*)")
    assert len(re.findall(r"\d+ MiB", why)) >= 2
    state = running.inspect(running.container("client-small"))["State"]
    assert (state["Running"], state["OOMKilled"]) == (True, False)
