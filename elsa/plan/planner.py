"""Who keeps which blocks: `plan` makes it from profiles, at the start of a run and again from what rounds measured.

For each edge and its clients, in this order: who cannot take part is refused by name (`admission.py`); the least
makespan is found, with the largest trunks within 0, 2 and 5 % of it (`trunks.py`); of these three, the one whose
steps are expected to take least is taken, and the plan before stays unless that gains more than 10 % or it no longer
holds (`edge_plan.py`). The paper names the dynamic split; its rule is not public in what could be read, so this one
is ours.
"""

from collections.abc import Iterable, Sequence

from elsa.errors import CapacityError
from elsa.plan.admission import edge_fault, own_fault, seated
from elsa.plan.edge_plan import plan_edge
from elsa.plan.memory import client_needs, edge_needs
from elsa.plan.problem import Problem, Refusal
from elsa.plan.profile import ClientProfile, EdgeProfile
from elsa.plan.result import ClientPlan, EdgePlan, Plan
from elsa.plan.site import Site
from elsa.plan.splits import possible_splits

MOST_REASONS = 20


def plan(problem: Problem) -> Plan:
    """The split of each client that can take part, and the reasons of those that cannot.

    Precisely, for each edge e with clients 1..N, trunks q, and T(q) of `trunks.py`: T* is the least T over all splits
    within bounds, caps and memory. For each slack of 0, 2 and 5 %, of the splits with T at most (1 + slack) T*, the
    candidate is the one with the largest sum of trunks; of those, the one in which the seconds of each client's own
    blocks, block_s times the blocks that it keeps, are least in order from the longest down; of those, the one with
    the largest trunk for the first by name. The candidate is taken whose slowest client's step, waiting included
    (`queueing.py`), is least; of equals the one with the larger trunks. The plan before stays if it still holds and
    what is expected of the new one is not below 0.9 of what is expected of it.

    Raises:
        CapacityError: if nobody can take part, with the reasons.
    """
    edges: dict[str, EdgePlan] = {}
    clients: dict[str, ClientPlan] = {}
    refused = [*problem.faults, *_without_edge(problem)]
    for edge in (one.for_rows(problem.workload.row_share) for one in sorted(problem.edges, key=_by_name)):
        crew = sorted((one for one in problem.clients if problem.homes.get(one.name) == edge.name), key=_by_name)
        site, turned_away = _admit(problem, edge, crew)
        refused += turned_away
        if site is not None:
            edges[edge.name], planned = plan_edge(site)
            clients.update({one.name: one for one in planned})
    refused = sorted(set(refused), key=lambda one: (one.role, one.name, one.reason))
    if not clients:
        raise CapacityError(f"no client can take part: {_listed(refused)}")
    return Plan(clients=dict(sorted(clients.items())), edges=edges, refused=tuple(refused))


def _by_name(device: ClientProfile | EdgeProfile) -> str:
    return device.name


def _without_edge(problem: Problem) -> Iterable[Refusal]:
    there = {edge.name for edge in problem.edges}
    for client in problem.clients:
        home = problem.homes.get(client.name)
        if home not in there:
            reason = "has no edge; assign it to one"
            if home is not None:
                reason = f"its edge {home} is not there or has no usable profile; assign it to another"
            yield Refusal(name=client.name, role="client", reason=reason)


def _admit(problem: Problem, edge: EdgeProfile, crew: Sequence[ClientProfile]) -> tuple[Site | None, list[Refusal]]:
    """An edge with those of its clients that can take part, if there are any, and the refusals."""
    needs = client_needs(problem.model, problem.workload)
    at_edge = edge_needs(problem.model, problem.workload, problem.most_trunk)
    if fault := edge_fault(edge, at_edge, problem.most_trunk):
        without = [Refusal(name=one.name, role="client", reason=f"its edge {edge.name} {fault}") for one in crew]
        return None, [Refusal(name=edge.name, role="edge", reason=fault), *without]
    least_bytes = needs.of(problem.min_bottom, problem.min_top).total
    faults = {one.name: own_fault(problem, least_bytes, one, edge.name) for one in crew}
    refused = [Refusal(name=name, role="client", reason=fault) for name, fault in faults.items() if fault]
    able = [one for one in crew if faults[one.name] is None]
    if not able:
        return None, refused
    smallest = 1 + possible_splits(problem, needs, able).fits.argmax(axis=1)
    rows, left_over = seated(edge, at_edge, able, smallest)
    refused += left_over
    if not rows:
        return None, refused
    clients = [able[row] for row in rows]
    return Site(problem=problem, edge=edge, clients=clients, client_needs=needs, edge_needs=at_edge), refused


def _listed(refused: Sequence[Refusal]) -> str:
    if not refused:
        return "there is none"
    more = [f"and {len(refused) - MOST_REASONS} more"] if len(refused) > MOST_REASONS else []
    return "; ".join([*map(str, refused[:MOST_REASONS]), *more])
