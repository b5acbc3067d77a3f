"""The plan of one edge: near the least makespan the one that is expected to take least, unless the plan before is
nearly as good.

What leaves more to the edge makes clients wait there, which the makespan does not see: so plans a little beyond it
are played through, and compared by what a step then takes.

Edges are planned apart. Each one's least makespan makes the round's least, and a plan that depends on no other edge
does not change when another one comes or goes.
"""

from collections.abc import Sequence

import numpy as np

from elsa.plan.profile import ClientProfile
from elsa.plan.reasons import Explained, explain
from elsa.plan.result import Bound, ClientPlan, EdgePlan
from elsa.plan.site import Cuts, Site
from elsa.plan.splits import within_memory
from elsa.plan.trunks import larger_trunks, least_makespan
from elsa.spec import Split
from elsa.train.phases import PhaseSeconds

SLACKS = (0.0, 0.02, 0.05)
"""How much longer than the least makespan a step may take for larger trunks."""
GAIN = 0.10
"""By more than what share of its expected step a plan that still holds must be beaten to be given up."""

Said = Sequence[tuple[Bound, str]]


def plan_edge(site: Site) -> tuple[EdgePlan, list[ClientPlan]]:
    """The plan of an edge and its clients'."""
    best_s = least_makespan(site.choices)
    within_s, new = _new(site, best_s)
    old = _old(site)
    if old is None or not old.differ(new):
        return _written(site, new, best_s, "new" if old is None else "as before", _explained(site, new, within_s))
    times = f"takes {new.expected_s:.3g} s a step instead of {old.expected_s:.3g}"
    if new.expected_s < (1 - GAIN) * old.expected_s:
        return _written(site, new, best_s, f"changed: {times}", _explained(site, new, within_s))
    reason = f"as before: a new plan {times}, which gains too little"
    return _written(site, old, best_s, reason, [("kept", reason)] * len(site.clients))


def _new(site: Site, best_s: float) -> tuple[float, Cuts]:
    """The plan to make if there was none before, with the makespan to keep within; of equals the larger trunks."""
    made: list[tuple[float, Cuts]] = []
    for within_s in ((1 + slack) * best_s for slack in SLACKS):
        trunks = larger_trunks(site.choices, within_s)
        if not made or (trunks[:, None] != made[-1][1].trunk).any():
            made.append((within_s, site.chosen(trunks)))
    return min(reversed(made), key=lambda one: one[1].expected_s)


def _old(site: Site) -> Cuts | None:
    """The plan before, if it still holds: every client was here, and bounds, caps and memory allow its split."""
    placed = [site.problem.previous.get(client.name) for client in site.clients]
    splits = [one.split for one in placed if one is not None and one.edge == site.edge.name]
    if len(splits) < len(placed) or not all(map(_allowed, [site] * len(splits), site.clients, splits)):
        return None
    blocks = np.array([(split.bottom, split.trunk, split.top) for split in splits])
    bottom, trunk, top = (blocks[:, [column]] for column in range(3))
    fits = within_memory(site.client_needs, site.clients, bottom, top)
    return site.cuts(bottom, trunk, top) if fits.all() and trunk.sum() <= site.most_blocks else None


def _allowed(site: Site, client: ClientProfile, split: Split) -> bool:
    within_cap = client.max_bottom is None or split.bottom <= client.max_bottom
    within_bounds = split.bottom >= site.problem.min_bottom and split.top >= site.problem.min_top
    return split.blocks == site.problem.model.blocks and within_cap and within_bounds


def _explained(site: Site, cuts: Cuts, within_s: float) -> Said:
    it = Explained(
        edge=site.edge,
        clients=site.clients,
        splits=site.splits,
        choices=site.choices,
        trunks=cuts.trunk[:, 0],
        within_s=within_s,
    )
    ends = zip(cuts.bottom[:, 0].tolist(), cuts.top[:, 0].tolist(), strict=True)
    return [explain(it, row, site.client_needs.of(*blocks).total) for row, blocks in enumerate(ends)]


def _written(site: Site, cuts: Cuts, best_s: float, note: str, said: Said) -> tuple[EdgePlan, list[ClientPlan]]:
    edge = EdgePlan(
        name=site.edge.name,
        sessions=len(site.clients),
        step_s=cuts.makespan_s,
        best_s=best_s,
        load_s=cuts.load_s,
        expected_s=cuts.expected_s,
        need=site.edge_needs.of(len(site.clients), int(cuts.trunk.sum())),
        note=note,
    )
    return edge, [_client_plan(site, cuts, row, *said[row]) for row in range(len(site.clients))]


def _client_plan(site: Site, cuts: Cuts, row: int, bound: Bound, reason: str) -> ClientPlan:
    bottom, trunk, top = (int(blocks[row, 0]) for blocks in (cuts.bottom, cuts.trunk, cuts.top))
    seconds = cuts.seconds
    own = PhaseSeconds(
        bottom=float(seconds.bottom[row, 0]),
        network=float(seconds.network[row, 0]),
        wait=float(cuts.waits[row]),
        trunk=float(seconds.trunk[row, 0]),
        top=float(seconds.top[row, 0]),
    )
    return ClientPlan(
        name=site.clients[row].name,
        edge=site.edge.name,
        split=Split(bottom=bottom, trunk=trunk, top=top),
        seconds=own,
        need=site.client_needs.of(bottom, top),
        bound=bound,
        reason=reason,
    )
