"""An edge's memory of what it answered of late."""

import pytest

from elsa.errors import StepOrderError
from elsa.train.session import Position
from services.edge.answers import Answer, Answers


def at(step, micro_batch=0):
    return Position(step=step, micro_batch=micro_batch)


@pytest.mark.parametrize("window", [1, 2, 3])
def test_memory_holds_whatever_can_be_unanswered(window):
    """A stream may break when `window` gradients are on their way, each of which is sent again with its size."""
    answers = Answers(window)
    for kind in ("forward", "backward"):
        for part in range(window):
            answers.add(kind, at(0, part), Answer(value=(kind, part), tokens=10 + part))
    for part in range(window):
        for kind in ("forward", "backward"):
            assert answers.get(kind, at(0, part)).value == (kind, part)
        assert answers.tokens(at(0, part)) == 10 + part


def test_memory_is_bounded():
    answers = Answers(2)
    for step in range(10):
        answers.add("forward", at(step), Answer(value=step, tokens=1))
    assert [step for step in range(10) if answers.get("forward", at(step))] == [6, 7, 8, 9]
    with pytest.raises(StepOrderError, match="step 0, micro-batch 0 has had no forward"):
        answers.tokens(at(0))
