"""How a demo follows its run: to its completion, or to the reason why there is none."""

import queue

import pytest

from elsa.errors import RoleDiedError, RoundGivenUpError
from elsa.v1 import fleet_pb2
from elsa.v1 import run_pb2 as pb
from services.testbed.demo import _follow


def happened(*events):
    """A queue in which these have come."""
    waiting = queue.Queue()
    for event in events:
        waiting.put(event)
    return waiting


def state(name, reason=""):
    return pb.RunEvent(state_changed={"state": fleet_pb2.RunState.Value(f"RUN_STATE_{name}"), "reason": reason})


def test_a_run_whose_nodes_left_ends_on_one_line_with_its_reason():
    left = pb.RunEvent(node_joined={"node_id": "client-1", "detail": "no column [/text]", "accepted": False})
    failed = state("FAILED", "0 of 2 clients are left:\nno column [/text]")
    with pytest.raises(RoundGivenUpError) as raised:
        _follow("demo-1", happened(state("TRAINING"), left, failed, None))
    assert str(raised.value) == "run demo-1 is FAILED: 0 of 2 clients are left: no column [/text]"


def test_a_role_that_died_is_told_before_what_became_of_the_run():
    with pytest.raises(RoleDiedError, match="edge-1 ended"):
        _follow("demo-1", happened(state("TRAINING"), RoleDiedError("edge-1 ended"), state("FAILED"), None))


def test_a_completed_run_is_followed_to_its_end():
    assert _follow("demo-1", happened(state("TRAINING"), state("COMPLETED"), None)).run_id == "demo-1"
