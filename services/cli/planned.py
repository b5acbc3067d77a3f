"""A plan as `elsa plan` shows it: what it was made from, what came out, and that as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from elsa.plan.homes import with_homes
from elsa.plan.planner import plan
from elsa.plan.problem import Problem
from elsa.plan.profile import ClientProfile, EdgeProfile
from elsa.plan.profile_file import Profiles
from elsa.plan.result import ClientPlan, EdgePlan, Plan
from elsa.plan.shape import Workload
from elsa.plan.steps import local_steps, step_seconds_of
from elsa.spec import RunSpec
from services.cli.plan_figures import Figures


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A plan and what it was made from."""

    problem: Problem
    plan: Plan
    steps: Mapping[str, int] | None
    """Local steps of each client; None where all take the same."""
    notes: tuple[str, ...]

    @property
    def step_s(self) -> float:
        """Until each client has done a step, waiting included: the slowest edge's."""
        return max(edge.expected_s for edge in self.plan.edges.values())

    @cached_property
    def clients(self) -> list[ClientPlan]:
        """Those that take part, by edge and name."""
        return sorted(self.plan.clients.values(), key=lambda one: (one.edge, one.name))

    @cached_property
    def profiles(self) -> Mapping[str, ClientProfile]:
        """Of clients, by name."""
        return {client.name: client for client in self.problem.clients}

    @cached_property
    def edges(self) -> Mapping[str, EdgeProfile]:
        """Profiles, by name."""
        return {edge.name: edge for edge in self.problem.edges}

    def before(self, client: ClientPlan) -> str:
        """The split that a client has now; empty if it is the planned one, or not known."""
        placed = self.problem.previous.get(client.name)
        return "" if placed is None or placed.split == client.split else str(placed.split)

    def as_json(self) -> dict[str, Any]:
        """The same as lists and mappings that JSON knows."""
        return {
            "step_s": self.step_s,
            "blocks": self.problem.model.blocks,
            "row_tokens": self.problem.workload.row_tokens,
            "clients": [self._client_as_json(client) for client in self.clients],
            "edges": [self._edge_as_json(edge) for edge in self.plan.edges.values()],
            "refused": [asdict(refusal) for refusal in self.plan.refused],
            "notes": list(self.notes),
        }

    def _client_as_json(self, client: ClientPlan) -> dict[str, Any]:
        steps = {} if self.steps is None else {"local_steps": self.steps[client.name]}
        now = self.problem.previous.get(client.name)
        return {
            "client": client.name,
            "edge": client.edge,
            "split": asdict(client.split),
            "split_now": None if now is None else asdict(now.split),
            "seconds": {**asdict(client.seconds), "total": step_seconds_of(client)},
            **steps,
            "need_bytes": client.need.total,
            "memory_bytes": self.profiles[client.name].memory_bytes,
            "block_s": self.profiles[client.name].block_s,
            "bound": client.bound,
            "reason": client.reason,
        }

    def _edge_as_json(self, edge: EdgePlan) -> dict[str, Any]:
        return {
            "edge": edge.name,
            "sessions": edge.sessions,
            "capacity": self.edges[edge.name].capacity,
            "step_s": edge.expected_s,
            "load_s": edge.load_s,
            "need_bytes": edge.need.total,
            "memory_bytes": self.edges[edge.name].memory_bytes,
            "note": edge.note,
        }


def planned(spec: RunSpec, figures: Figures) -> Planned:
    """The plan of figures that say the model and the tokens of a row.

    Raises CapacityError with the reasons if nobody can take part, SplitError for bounds that leave no trunk.
    """
    profiles = figures.profiles
    if profiles.model is None or profiles.row_tokens is None:
        raise ValueError("figures without a model; with_shape gives them one")
    problem = Problem(
        model=profiles.model,
        workload=Workload.of(spec, profiles.model.width, profiles.row_tokens),
        clients=profiles.clients,
        edges=profiles.edges,
        homes=profiles.homes,
        min_bottom=spec.split.bottom,
        min_top=spec.split.top,
        previous=figures.previous,
        faults=profiles.faults,
    )
    problem = with_homes(problem)
    made = plan(problem)
    proportional = spec.training.steps == "proportional"
    steps = local_steps(made, spec.training.local_steps) if proportional else None
    return Planned(problem=problem, plan=made, steps=steps, notes=(*figures.notes, *_beside(spec)))


def profiles_of(found: Planned) -> Profiles:
    """What was planned from, as a file keeps it: with the edges that clients were given."""
    problem = found.problem
    return Profiles(
        clients=tuple(sorted(problem.clients, key=_by_name)),
        edges=tuple(sorted(problem.edges, key=_by_name)),
        homes=problem.homes,
        model=problem.model,
        row_tokens=problem.workload.row_tokens,
    )


def _by_name(device: ClientProfile | EdgeProfile) -> str:
    return device.name


def _beside(spec: RunSpec) -> list[str]:
    """What a run of this specification would do otherwise."""
    if spec.plans_splits:
        return []
    return ["a run of this specification does not plan its splits (plan.method); this is what a plan would be"]
