"""What a client may say of its training in an edge round: bounds that edge and cloud hold its report to.

Both do, so that an edge never pushes what the cloud refuses, and the cloud plans from no edge's word alone.
"""

import math
from collections.abc import Iterator

from elsa.errors import MalformedError
from elsa.v1 import adapter_pb2

MOST_S = 1e9
"""Of a phase, and of a whole edge round: some thirty years."""
MOST_STEPS = 100_000
"""Of an edge round, as a specification allows them."""
MOST_BLOCKS = 10_000
"""Of each part of a split."""
PHASES = ("bottom", "network", "wait", "trunk", "top")


def check_report(report: adapter_pb2.ClientReport) -> None:
    """Raise MalformedError, naming client and field, unless times, steps, loss and split can be."""
    for name, value, allowed in _figures(report):
        if allowed:
            raise MalformedError(f"reports.{name} of {report.client_id[:80]}: {value}; it must be {allowed}")


def _figures(report: adapter_pb2.ClientReport) -> Iterator[tuple[str, float, str]]:
    """Each figure by name, and what it should have been; nothing where it is that."""
    times = {f"seconds.{phase}": getattr(report.seconds, phase) for phase in PHASES}
    for name, value in {**times, "wall_s": report.wall_s}.items():
        yield name, value, "" if 0 <= value <= MOST_S else f"from 0 to {MOST_S:g} seconds"
    yield "loss", report.loss, "" if math.isfinite(report.loss) else "finite"
    yield "steps", report.steps, "" if report.steps <= MOST_STEPS else f"at most {MOST_STEPS}"
    if report.HasField("split"):
        for name, least in (("bottom", 1), ("trunk", 1), ("top", 0)):
            value = getattr(report.split, name)
            fits = least <= value <= MOST_BLOCKS
            yield f"split.{name}", value, "" if fits else f"from {least} to {MOST_BLOCKS} blocks"
