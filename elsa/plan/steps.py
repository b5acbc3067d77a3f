"""How many optimizer steps each client takes in an edge round where slower ones take fewer (`training.steps`)."""

from dataclasses import astuple

from elsa.plan.result import ClientPlan, Plan


def local_steps(plan: Plan, most: int) -> dict[str, int]:
    """Steps of each client, by name, such that all take about as long as the fastest client takes for `most`.

    A client whose step is planned to take t seconds, waiting for the edge included, takes most · fastest / t of them,
    rounded, at least one. The fastest is that of the whole plan, not of each edge: edges deliver to one global round,
    and the cloud waits for the slowest of them. What a client then takes differs from the fastest one's time by half
    a step of its own at most, unless one step takes longer than that time. Aggregation corrects for who took more
    (FedNova, arXiv 2007.07481).

    Raises:
        ValueError: if `most` is below 1.
    """
    if most < 1:
        raise ValueError(f"most is {most}; a client takes at least 1 step")
    seconds = {name: step_seconds_of(client) for name, client in plan.clients.items()}
    fastest = min(seconds.values(), default=0.0)
    return {name: max(1, round(most * (fastest / own))) for name, own in seconds.items()}


def step_seconds_of(client: ClientPlan) -> float:
    """What one step is planned to take a client, all phases and its wait for the edge."""
    return float(sum(astuple(client.seconds)))
