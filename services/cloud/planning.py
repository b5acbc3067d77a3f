"""How a run's model is cut for each of its clients: profiles and homes in, splits and steps out; nothing is written.

A plan is made when clients get their edges, and again at the end of rounds from what those measured: `corrected`
first brings the profiles up to what the reports say.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from elsa.errors import CapacityError, SplitError
from elsa.plan.measured import Measured, client_as_measured, edge_as_measured
from elsa.plan.planner import plan
from elsa.plan.problem import Placed, Problem, Refusal
from elsa.plan.result import ClientPlan, Plan
from elsa.plan.shape import ModelShape, Workload
from elsa.plan.steps import local_steps
from elsa.spec import RunSpec, Split
from services.cloud.records import ClientReport, Member, Profile


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a client carries."""

    plan: ClientPlan
    local_steps: int

    @property
    def split(self) -> str:
        """bottom/top, as a member has it."""
        return f"{self.plan.split.bottom}/{self.plan.split.top}"


@dataclass(frozen=True, kw_only=True)
class Planning:
    """What was planned; without shares where nothing changes."""

    shares: Mapping[str, Share]
    """By client, in order of their names."""
    refused: tuple[Refusal, ...] = ()
    step_s: float = 0.0
    """Predicted seconds of a step: the slowest client's of all edges."""
    notes: tuple[str, ...] = ()
    """How it came about, a line each."""


@dataclass(frozen=True, kw_only=True)
class Replanned:
    """What a round tells: the profiles as they are newest, and the plan from them if one is due."""

    profiles: Sequence[Profile]
    planning: Planning | None


def planned(
    spec: RunSpec, members: Sequence[Member], profiles: Sequence[Profile], homes: Mapping[str, str]
) -> Planning:
    """The shares of clients at their edges. Raises CapacityError with the reasons if nobody can take part."""
    made = plan(problem_of(spec, members, profiles, homes))
    steps = local_steps(made, spec.training.local_steps) if spec.training.steps == "proportional" else {}
    return Planning(
        shares={
            name: Share(plan=own, local_steps=steps.get(name, spec.training.local_steps))
            for name, own in made.clients.items()
        },
        refused=made.refused,
        step_s=max(edge.expected_s for edge in made.edges.values()),
        notes=_notes(made),
    )


def replanned(
    spec: RunSpec,
    members: Sequence[Member],
    profiles: Sequence[Profile],
    homes: Mapping[str, str],
    reports: Mapping[str, Sequence[ClientReport]],
    version: int,
) -> Replanned:
    """What the reports of the round that made `version`, by edge, say of devices, and the next plan if one is due."""
    newest = corrected(spec, members, profiles, reports)
    due = spec.plan.every and version % spec.plan.every == 0 and version < spec.training.rounds
    return Replanned(profiles=newest, planning=planned_again(spec, members, newest, homes) if due else None)


def planned_again(
    spec: RunSpec, members: Sequence[Member], profiles: Sequence[Profile], homes: Mapping[str, str]
) -> Planning:
    """As `planned`, while a run trains: who is refused keeps what it has, and so does everybody if all are."""
    try:
        made = planned(spec, members, profiles, homes)
    except CapacityError as error:
        return Planning(shares={}, notes=(f"as before: {error}",))
    kept = tuple(f"{refusal.name} keeps its split: {refusal.reason}" for refusal in made.refused)
    return replace(made, notes=(*made.notes, *kept))


def problem_of(
    spec: RunSpec, members: Sequence[Member], profiles: Sequence[Profile], homes: Mapping[str, str]
) -> Problem:
    """What the planner is asked. Raises CapacityError where no edge has told the model's shape."""
    there = set(homes) | set(homes.values())
    known = {kept.node_id: kept for kept in profiles if kept.node_id in there}
    shape = _shape(list(known.values()))
    before = {member.node_id: member for member in members}
    faults = [
        Refusal(name=kept.node_id, role="edge", reason=f"has another model than {shape.blocks} blocks of its peers")
        for kept in known.values()
        if kept.shape is not None and kept.shape.blocks != shape.blocks
    ]
    odd = {fault.name for fault in faults}
    return Problem(
        model=shape,
        workload=Workload.of(spec, shape.width, _row_tokens(known.values())),
        clients=tuple(kept.client for kept in known.values() if kept.client is not None),
        edges=tuple(kept.edge for kept in known.values() if kept.edge is not None and kept.node_id not in odd),
        homes=homes,
        min_bottom=spec.split.bottom,
        min_top=spec.split.top,
        previous={
            name: Placed(edge=member.edge_id, split=_split(member.split, shape.blocks))
            for name, member in before.items()
            if name in homes and member.edge_id and member.split and member.local_steps
        },
        faults=tuple(faults),
    )


def corrected(
    spec: RunSpec,
    members: Sequence[Member],
    profiles: Sequence[Profile],
    reports: Mapping[str, Sequence[ClientReport]],
) -> list[Profile]:
    """The profiles of a run as `reports`, by edge, say that its devices are; those of which nothing is said stay.

    An edge's word counts for those clients alone that are assigned to it.
    """
    known = {kept.node_id: kept for kept in profiles}
    home = {member.node_id: member.edge_id for member in members}
    shape = _shape(profiles)
    workload = Workload.of(spec, shape.width, _row_tokens(profiles))
    for edge_id, told in reports.items():
        measured = _measured([report for report in told if home.get(report.client_id) == edge_id], shape.blocks)
        for client_id, work in measured.items():
            kept = known.get(client_id)
            if kept is not None and kept.client is not None:
                known[client_id] = replace(kept, client=client_as_measured(kept.client, edge_id, workload, work))
        edge = known.get(edge_id)
        if edge is not None and edge.edge is not None and measured:
            known[edge_id] = replace(
                edge, edge=edge_as_measured(edge.edge, list(measured.values()), workload.row_share)
            )
    return [known[kept.node_id] for kept in profiles]


def _measured(reports: Sequence[ClientReport], blocks: int) -> dict[str, list[Measured]]:
    """By client, the steps of those edge rounds of which it said how the model was cut."""
    found: dict[str, list[Measured]] = {}
    for report in reports:
        cut = _cut(report.split)
        if report.steps and cut is not None and cut.blocks == blocks:
            work = Measured(split=cut, steps=report.steps, seconds=report.seconds)
            found.setdefault(report.client_id, []).append(work)
    return found


def _cut(text: str) -> Split | None:
    """bottom/trunk/top, None where that is not said or impossible."""
    try:
        bottom, trunk, top = map(int, text.split("/"))
        return Split(bottom=bottom, trunk=trunk, top=top)
    except (ValueError, SplitError):
        return None


def _split(text: str, blocks: int) -> Split:
    bottom, top = map(int, text.split("/"))
    return Split(bottom=bottom, trunk=blocks - bottom - top, top=top)


def _shape(profiles: Sequence[Profile]) -> ModelShape:
    """What most edges say, of equals the first."""
    told = [kept.shape for kept in profiles if kept.shape is not None]
    if not told:
        raise CapacityError("no edge has told the shape of the model; see the logs of the edges")
    return max(told, key=told.count)


def _row_tokens(profiles: Iterable[Profile]) -> float:
    """Real tokens of a row, on average over the clients: each takes about as many steps, whatever its rows."""
    told = [kept.row_tokens for kept in profiles if kept.client is not None]
    return sum(told) / len(told) if told else 1.0


def _notes(made: Plan) -> tuple[str, ...]:
    return tuple(f"{edge.name}: {edge.note}, {edge.expected_s:.3g} s a step" for edge in made.edges.values())
