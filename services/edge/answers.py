"""What a session has answered of late: a message that comes again, as after its stream broke, changes nothing.

Filled and read on the compute thread, so that of two streams of one session the second finds what the first did.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from elsa.errors import StepOrderError
from elsa.train.session import Position


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was made for a message, and the tokens of its micro-batch."""

    value: Any = field(repr=False)
    tokens: int


class Answers:
    """The latest answers, as many as can be unanswered at the client: a forward and a backward for each in flight."""

    def __init__(self, window: int) -> None:
        self._most = 2 * window
        self._answers: OrderedDict[tuple[str, Position], Answer] = OrderedDict()

    def get(self, kind: str, position: Position) -> Answer | None:
        """The answer to a message of that kind ("forward" or "backward"), if it was given of late."""
        return self._answers.get((kind, position))

    def add(self, kind: str, position: Position, answer: Answer) -> None:
        """Remember an answer; the oldest is forgotten."""
        self._answers[kind, position] = answer
        while len(self._answers) > self._most:
            self._answers.popitem(last=False)

    def clear(self) -> None:
        """Forget all."""
        self._answers.clear()

    def tokens(self, position: Position) -> int:
        """Tokens of a micro-batch that was sent forward. Raises StepOrderError if none was, or long ago."""
        for kind in ("backward", "forward"):  # a backward that comes again is known by its own answer
            answer = self.get(kind, position)
            if answer is not None:
                return answer.tokens
        raise StepOrderError(f"backward: {position} has had no forward")
