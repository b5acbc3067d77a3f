"""Who can take part in a plan at all; everyone else is refused by name, with what is needed and what is there."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

import numpy as np

from elsa.errors import CapacityError
from elsa.plan.cost import Ints
from elsa.plan.memory import EdgeNeeds, Need, client_needs
from elsa.plan.problem import Problem, Refusal
from elsa.plan.profile import ClientProfile, EdgeProfile
from elsa.plan.shape import ModelShape, Workload
from elsa.spec import Split

GIB_FROM = 10 << 30
"""From here on sizes are told in GiB; settings such as max_memory_mib, and most figures, are smaller."""


def sized(size: int) -> str:
    """Bytes as people read them: in MiB, those of 10 GiB and more in GiB."""
    return f"{size / 2**30:.2f} GiB" if size >= GIB_FROM else f"{size / 2**20:.1f} MiB"


def check_client_fits(
    model: ModelShape, workload: Workload, split: Split, memory_bytes: int, name: str, *, at_least: bool = False
) -> None:
    """Refuse a split whose part a client's memory does not hold, before any of it is loaded.

    Args:
        memory_bytes: what may be taken beyond the process without a model.
        name: the client's.
        at_least: the model is only counted, with 0 activations, so that what is needed is more than is said.

    Raises:
        CapacityError: with what is needed, by kind, what is there, and what else could be asked for.
    """
    need = client_needs(model, workload).of(split.bottom, split.top)
    if need.total <= memory_bytes:
        return
    remedies = "; or ".join(
        ["give it more memory, or a split with smaller ends", *_remedies(model, workload, split, at_least)]
    )
    raise CapacityError(
        f"{name} needs {words(need, at_least)} for bottom {split.bottom} and top {split.top} ({by_kind(need)}), "
        f"{sized(memory_bytes)} are there; {remedies}"
    )


def by_kind(need: Need) -> str:
    """What is needed of each kind, those of which nothing is left out."""
    sizes = {one.name: getattr(need, one.name) for one in fields(need)}
    return ", ".join(f"{name} {sized(size)}" for name, size in sizes.items() if size)


def asked_otherwise(workload: Workload, *, at_least: bool = False) -> dict[str, Workload]:
    """What a specification could say that takes less memory, by the setting.

    Args:
        at_least: as of `check_client_fits`; what checkpointing spares is not known then.
    """
    asked = {
        "training.checkpointing: true": replace(workload, checkpointing=True),
        "model.base_dtype: int8": replace(workload, base="int8"),
        f"training.micro_batches: {workload.rows}": replace(workload, micro_batches=workload.rows),
    }
    if at_least:
        del asked["training.checkpointing: true"]
    return {setting: other for setting, other in asked.items() if other != workload}


def words(need: Need, at_least: bool) -> str:
    """The total of a need, or that it is more than that."""
    return ("at least " if at_least else "") + sized(need.total)


def _remedies(model: ModelShape, workload: Workload, split: Split, at_least: bool) -> Iterator[str]:
    """What the run's specification could say otherwise, each with what would be needed then."""
    for setting, other in asked_otherwise(workload, at_least=at_least).items():
        needed = client_needs(model, other).of(split.bottom, split.top)
        yield f"ask for {setting}, which needs {words(needed, at_least)}"


def own_fault(problem: Problem, least_bytes: int, client: ClientProfile, edge: str) -> str | None:
    """Why a client cannot train at an edge whoever else is there, if so: its link, its cap or its memory.

    Of a step's seconds only those of the transfers may be beyond all floats: a profile bounds the others.

    Args:
        least_bytes: what the bounds' blocks take at a client.
    """
    if edge not in client.links:
        return f"has no figures of its link to {edge}; measure it"
    link, workload = client.links[edge], problem.workload
    if not math.isfinite(workload.up_bytes / link.up_bytes_per_s + workload.down_bytes / link.down_bytes_per_s):
        return f"its step would never end over its link to {edge}; measure the link again, or give it another"
    if client.max_bottom is not None and client.max_bottom < problem.min_bottom:
        return (
            f"max_bottom {client.max_bottom} is below the run's min_bottom {problem.min_bottom}; "
            "raise the one or lower the other"
        )
    if least_bytes > client.memory_bytes:
        return (
            f"needs {sized(least_bytes)} for bottom {problem.min_bottom} and top {problem.min_top}, "
            f"{sized(client.memory_bytes)} are there; give it more memory, or lower the bounds or the batch"
        )
    return None


def edge_fault(edge: EdgeProfile, needs: EdgeNeeds, held_blocks: int) -> str | None:
    """Why an edge cannot serve anybody, if so: it lacks memory for one session of one block."""
    least = needs.of(1, 1).total
    if least <= edge.memory_bytes:
        return None
    return (
        f"needs {sized(least)} for {held_blocks} blocks and one session, "
        f"{sized(edge.memory_bytes)} are there; give it more memory, or raise min_bottom or min_top"
    )


def seated(
    edge: EdgeProfile, needs: EdgeNeeds, clients: Sequence[ClientProfile], smallest: Ints
) -> tuple[list[int], list[Refusal]]:
    """Rows of the clients that an edge has sessions and memory for, rising, and the others' refusals.

    Those whose own memory allows the smallest trunk, `smallest` (N,), come first, so that as many as possible find
    room; between equals the order of `clients` decides.
    """
    empty, session, block = needs.base.total, needs.session.total, needs.session_block.total
    kept: list[int] = []
    refused: list[Refusal] = []
    taken = empty
    for row in np.argsort(smallest, kind="stable"):
        needed = taken + session + block * int(smallest[row])
        if len(kept) < edge.capacity and needed <= edge.memory_bytes:
            kept.append(int(row))
            taken = needed
            continue
        reason = f"all {edge.capacity} sessions of {edge.name} are taken; assign it to another edge"
        if len(kept) < edge.capacity:
            reason = (
                f"{edge.name} needs {sized(needed)} with it beside {len(kept)} others, "
                f"{sized(edge.memory_bytes)} are there, and it cannot leave fewer than {smallest[row]} blocks; "
                "assign it to another edge, or give either more memory"
            )
        refused.append(Refusal(name=clients[row].name, role="client", reason=reason))
    return sorted(kept), refused
