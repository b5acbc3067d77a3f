"""How many optimizer steps each client takes in an edge round where slower ones take fewer (`training.steps`)."""

from collections.abc import Mapping
from dataclasses import astuple
from math import ceil

from elsa.aggregate.fednova import least_steps
from elsa.plan.result import ClientPlan, Plan

CHANGE = 0.10
"""By more than what share of its steps before a client's must differ to be changed."""


def local_steps(plan: Plan, most: int) -> dict[str, int]:
    """Steps of each client, by name, such that all take about as long as the fastest client takes for `most`.

    A client whose step is planned to take t seconds, waiting for the edge included, takes most · fastest / t of them,
    rounded, and at least a hundredth of most: with fewer its way would be stretched too far. The fastest is that of
    the whole plan, not of each edge: edges deliver to one global round, and the cloud waits for the slowest of them.
    What a client then takes differs from the fastest one's time by half a step of its own at most, unless its least
    steps take longer than that time. Aggregation corrects for who took more (FedNova, arXiv 2007.07481).

    Raises:
        ValueError: if `most` is below 1.
    """
    if most < 1:
        raise ValueError(f"most is {most}; a client takes at least 1 step")
    seconds = {name: step_seconds_of(client) for name, client in plan.clients.items()}
    fastest = min(seconds.values(), default=0.0)
    least = ceil(least_steps(most))
    return {name: max(least, round(most * (fastest / own))) for name, own in seconds.items()}


def steadied(steps: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    """The steps of each client, by name, as they were `before` where they hardly differ: no flapping.

    Args:
        before: of those clients alone whose split is the one that they had.
    """
    return {
        name: before[name] if name in before and abs(own - before[name]) <= CHANGE * before[name] else own
        for name, own in steps.items()
    }


def step_seconds_of(client: ClientPlan) -> float:
    """What one step is planned to take a client, all phases and its wait for the edge."""
    return float(sum(astuple(client.seconds)))
