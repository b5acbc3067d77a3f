"""Small fleets whose figures are exact in binary, and the planner's objective by trying everything."""

import itertools
import math
from collections.abc import Mapping

import numpy as np
from hypothesis import strategies as st

from elsa.plan.cost import StepSeconds
from elsa.plan.memory import client_needs, edge_needs
from elsa.plan.problem import Problem
from elsa.plan.profile import ClientProfile, EdgeProfile, LinkProfile
from elsa.plan.queueing import waiting_seconds
from elsa.plan.shape import ModelShape, Workload
from elsa.plan.traffic import Traffic

EIGHTHS = [n / 8 for n in range(1, 17)]
AMPLE = 2**40


def model_of(blocks=6, **figures):
    shape = {
        "width": 8,
        "block_weights": 1000,
        "embedding_weights": 3000,
        "head_weights": 50,
        "largest_weights": 2500,
        "block_adapter": 64,
        "head_adapter": 20,
        "block_activations": 100,
        "head_activations": 10,
    }
    return ModelShape(blocks=blocks, **{**shape, **figures})


def workload_of(**figures):
    given = {"rows": 4, "row_tokens": 8, "longest_row": 16, "traffic": Traffic(h1=32, h2=32, dh2=32, dh1=32)}
    return Workload(**{**given, **figures})


def client_of(name="client-1", edges=("edge-1",), **figures):
    link = LinkProfile(latency_ms=125, up_bytes_per_s=2**14, down_bytes_per_s=2**15)
    given = {"block_s": 1.0, "embeddings_s": 0.25, "head_s": 0.5, "memory_bytes": AMPLE}
    return ClientProfile(name=name, **{**given, "links": dict.fromkeys(edges, link), **figures})


def edge_of(name="edge-1", **figures):
    return EdgeProfile(name=name, **{"block_s": 0.25, "memory_bytes": AMPLE, "capacity": 100, **figures})


def problem_of(clients, edges=None, **figures):
    edges = (edge_of(),) if edges is None else tuple(edges)
    homes = {client.name: edges[0].name for client in clients}
    given = {"model": model_of(), "workload": workload_of(), "homes": homes}
    return Problem(clients=tuple(clients), edges=edges, **{**given, **figures})


@st.composite
def problems(draw, everyone_fits=False):
    """One edge and a few clients with memory, caps and bounds that matter, drawn evenly.

    With `everyone_fits` no client is turned away for itself; the edge may still be short of memory.
    """
    pick = draw(st.randoms(use_true_random=True)).choice
    model = model_of(blocks=pick([3, 4, 5, 6, 6]))
    min_bottom = pick([1, 1, 2])
    min_top = pick(range(min(3, model.blocks - min_bottom)))
    trains_bottom, checkpointing = pick([(True, False), (False, False), (True, True)])  # a third is no binary figure
    workload = workload_of(
        micro_batches=pick([1, 2]),
        trains_bottom=trains_bottom,
        checkpointing=checkpointing,
        local_steps=pick([1, 3, 50]),
    )
    needs = client_needs(model, workload)
    least, odd = needs.of(min_bottom, min_top).total, [] if everyone_fits else [-1]
    clients = [
        client_of(
            f"client-{number}",
            block_s=pick(EIGHTHS),
            head_s=pick(EIGHTHS),
            codec_s=pick([0.0, 0.125]),
            memory_bytes=least + pick([0, 1, 2, 3, 5, 5, 5, *odd]) * needs.bottom_block.total,
            max_bottom=pick([None, None, None, None, 2, 3, 4, *map(abs, odd)]),
        )
        for number in range(pick([1, 2, 3, 3, 4]))
    ]
    sessions, between = len(clients), model.blocks - min_bottom - min_top
    blocks = max(sessions * between - pick([0, 0, 0, 1, 2, 4]), 1)
    edge = edge_of(
        block_s=pick(EIGHTHS) / pick([1, 2]),
        crowding_s=pick([0.0, 0.125]),
        step_s=pick([0.0, 0.0, 0.25, 1.0]),
        memory_bytes=edge_needs(model, workload, between).of(sessions, blocks).total,
        capacity=sessions if everyone_fits else pick([2, 3, 4, 4, 4]),
    )
    return problem_of(clients, [edge], model=model, workload=workload, min_bottom=min_bottom, min_top=min_top)


def split_for(problem, client, trunk):
    """Bottom first, then top, as blocks (bottom, top)."""
    bottom = min(client.max_bottom or problem.model.blocks, problem.model.blocks - problem.min_top - trunk)
    return bottom, problem.model.blocks - trunk - bottom


def step_of(problem, client, edge, sessions, trunk):
    """Seconds of a client's step by itself, written out anew; infinite where its memory does not hold the split."""
    return sum(phases_of(problem, client, edge, sessions, trunk))


def phases_of(problem, client, edge, sessions, trunk):
    """Its bottom, network, trunk and top."""
    work = problem.workload
    bottom, top = split_for(problem, client, trunk)
    if client_needs(problem.model, work).of(bottom, top).total > client.memory_bytes:
        return math.inf, 0.0, 0.0, 0.0
    link, tokens = client.links[edge.name], work.rows * work.row_tokens
    traffic = work.traffic
    network = work.micro_batches * 4 * (link.latency_ms / 1000 / 2)
    network += tokens * (traffic.h1 + traffic.dh2) / link.up_bytes_per_s
    network += tokens * (traffic.h2 + traffic.dh1) / link.down_bytes_per_s + client.codec_s
    below = client.embeddings_s + client.block_s * bottom * (1 if work.trains_bottom else 0.5)
    at_edge = edge.step_s + trunk * (edge.block_s + edge.crowding_s * (sessions - 1))
    return below, network, at_edge, client.head_s + client.block_s * top


def expected_of(problem, names, trunks):
    """What a step takes the slowest of the clients `names` of the one edge, waiting included."""
    (edge,) = problem.edges
    clients = sorted((one for one in problem.clients if one.name in names), key=lambda one: one.name)
    rows = [
        phases_of(problem, client, edge, len(clients), trunk) for client, trunk in zip(clients, trunks, strict=True)
    ]
    bottom, network, trunk, top = (np.array(phase)[:, None] for phase in zip(*rows, strict=True))
    seconds, workload = StepSeconds(bottom=bottom, network=network, trunk=trunk, top=top), problem.workload
    return float((seconds.total[:, 0] + waiting_seconds(seconds, workload.forward_share, workload.local_steps)).max())


def by_trying_all(problem, names):
    """The least makespan, and the trunk of each of the clients `names` of the one edge, by the stated objective."""
    (edge,) = problem.edges
    clients = sorted((one for one in problem.clients if one.name in names), key=lambda one: one.name)
    sizes, sessions = range(1, problem.most_trunk + 1), len(clients)
    at_edge = edge_needs(problem.model, problem.workload, problem.most_trunk)
    block_s = edge.block_s + edge.crowding_s * (sessions - 1)
    steps = [[step_of(problem, client, edge, sessions, size) for size in sizes] for client in clients]
    made: Mapping[tuple[int, ...], float] = {
        trunks: max(
            edge.step_s * sessions + block_s * sum(trunks),
            *(one[size - 1] for one, size in zip(steps, trunks, strict=True)),
        )
        for trunks in itertools.product(sizes, repeat=sessions)
        if at_edge.of(sessions, sum(trunks)).total <= edge.memory_bytes
    }
    best = min(made.values())
    own_s = [[client.block_s * (problem.model.blocks - size) for size in sizes] for client in clients]

    def worth(trunks):
        kept = sorted((own[size - 1] for own, size in zip(own_s, trunks, strict=True)), reverse=True)
        return sum(trunks), [-seconds for seconds in kept], trunks

    candidates = [
        max((trunks for trunks, taken in made.items() if taken <= (1 + slack) * best), key=worth)
        for slack in (0.05, 0.02, 0.0)
    ]
    chosen = min(candidates, key=lambda trunks: expected_of(problem, names, trunks))
    return best, {client.name: trunk for client, trunk in zip(clients, chosen, strict=True)}
