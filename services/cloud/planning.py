"""How a run's model is cut for each of its clients: profiles and homes in, splits and steps out; nothing is written.

A plan is made when clients get their edges, and again at the end of rounds from what those measured: `correcting.py`
first brings the profiles up to what the reports say. Once a run trains, nothing here fails it: what cannot be planned
stays as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from elsa.errors import CapacityError, SpecError, SplitError
from elsa.plan.planner import plan
from elsa.plan.problem import Placed, Problem, Refusal
from elsa.plan.result import ClientPlan, Plan
from elsa.plan.shape import Workload
from elsa.plan.steps import local_steps, steadied
from elsa.spec import RunSpec, Split
from services.cloud.agreed import agreed_shape, mean_padded_tokens, mean_row_tokens, of_another_model, taking_part
from services.cloud.correcting import corrected
from services.cloud.records import Member, Profile
from services.cloud.round_records import ClientReport

_UNPLANNABLE = (CapacityError, SpecError, SplitError, ValueError, ArithmeticError)


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
    made_from: tuple[Profile, ...] = ()
    """A run's first plans: all its profiles as they were then. What is planned holds while they are the same."""


@dataclass(frozen=True, kw_only=True)
class Replanned:
    """What a round tells: the profiles that are others than before, and the plan from all if one is due."""

    profiles: Sequence[Profile]
    planning: Planning | None
    notes: tuple[str, ...] = ()
    """What reports could not be used, and why no plan was made that was due, a line each."""


def planned(
    spec: RunSpec, members: Sequence[Member], profiles: Sequence[Profile], homes: Mapping[str, str]
) -> Planning:
    """The shares of clients at their edges. Raises CapacityError with the reasons if nobody can take part."""
    made = plan(problem_of(spec, members, profiles, homes))
    steps = local_steps(made, spec.training.local_steps) if spec.training.steps == "proportional" else {}
    steps = steadied(steps, _steps_of_same_splits(made, members))
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
    try:
        newest, notes = corrected(spec, members, profiles, homes, reports)
    except _UNPLANNABLE as error:
        newest, notes = list(profiles), (f"profiles as before: {error}",)
    changed = [new for new, old in zip(newest, profiles, strict=True) if new != old]
    if not spec.plan.every or version % spec.plan.every or version >= spec.training.rounds:
        return Replanned(profiles=changed, planning=None, notes=notes)
    planning = planned_again(spec, members, newest, homes)
    notes = notes if planning.shares else (*notes, *planning.notes)
    return Replanned(profiles=changed, planning=replace(planning, notes=(*planning.notes, *notes)), notes=notes)


def planned_again(
    spec: RunSpec, members: Sequence[Member], profiles: Sequence[Profile], homes: Mapping[str, str]
) -> Planning:
    """As `planned`, while a run trains: who is refused keeps what it has, and so does everybody if all are."""
    try:
        made = planned(spec, members, profiles, homes)
    except _UNPLANNABLE as error:
        return Planning(shares={}, notes=(f"as before: {error}",))
    kept = tuple(f"{refusal.name} keeps its split: {refusal.reason}" for refusal in made.refused)
    return replace(made, notes=(*made.notes, *kept))


def problem_of(
    spec: RunSpec, members: Sequence[Member], profiles: Sequence[Profile], homes: Mapping[str, str]
) -> Problem:
    """What the planner is asked. Raises CapacityError where no edge has told the model's shape."""
    there = taking_part(profiles, {*homes, *homes.values()})
    shape = agreed_shape(there)
    faults = of_another_model(there, shape)
    odd = {fault.name for fault in faults}
    return Problem(
        model=shape,
        workload=Workload.of(spec, shape.width, mean_row_tokens(there), mean_padded_tokens(there)),
        clients=tuple(kept.client for kept in there if kept.client is not None),
        edges=tuple(kept.edge for kept in there if kept.edge is not None and kept.node_id not in odd),
        homes=homes,
        min_bottom=spec.split.bottom,
        min_top=spec.split.top,
        previous={
            member.node_id: Placed(edge=member.edge_id, split=_split(member.split, shape.blocks))
            for member in members
            if member.node_id in homes and member.edge_id and member.split and member.local_steps
        },
        faults=tuple(faults),
    )


def _steps_of_same_splits(made: Plan, members: Sequence[Member]) -> dict[str, int]:
    """The local steps of the clients that keep their edge and split."""
    shares = {name: (own.edge, f"{own.split.bottom}/{own.split.top}") for name, own in made.clients.items()}
    return {
        member.node_id: member.local_steps
        for member in members
        if member.local_steps and shares.get(member.node_id) == (member.edge_id, member.split)
    }


def _split(text: str, blocks: int) -> Split:
    bottom, top = map(int, text.split("/"))
    return Split(bottom=bottom, trunk=blocks - bottom - top, top=top)


def _notes(made: Plan) -> tuple[str, ...]:
    return tuple(f"{edge.name}: {edge.note}, {edge.expected_s:.3g} s a step" for edge in made.edges.values())
