"""How long a split plan takes: fleets drawn at random, planned anew on one core.

A plan is made before a run and after each of its rounds, so it must cost next to nothing.
"""

import statistics
import time

import numpy as np

from benchmarks.fleet import table
from elsa.plan.planner import plan
from elsa.plan.problem import Problem
from elsa.plan.profile import ClientProfile, EdgeProfile, LinkProfile
from elsa.plan.shape import ModelShape, Workload
from elsa.spec import RunSpec

SIZES = ((100, 4), (1_000, 20), (10_000, 100))
TIMES = 5
AIMED, AIM_S = (1_000, 20), 0.5
WIDTH = 2048
LARGE = ModelShape(
    blocks=24,
    width=WIDTH,
    block_weights=50_000_000,
    embedding_weights=100_000_000,
    head_weights=WIDTH,
    largest_weights=100_000_000,
    block_adapter=65_536,
    block_activations=14 * WIDTH,
    head_activations=50_000,
)
SPEC = RunSpec.model_validate(
    {
        "model": {"task": "causal-lm", "max_tokens": 256},
        "codecs": dict.fromkeys(("h1", "h2", "dh2", "dh1"), "subspace(ratio=4) | int8"),
    }
)


def fleet(clients: int, edges: int) -> Problem:
    """Devices whose speed, memory and links differ by factors, as many clients at each edge."""
    draw = np.random.default_rng(clients)
    names = [f"edge-{n:03d}" for n in range(edges)]
    servers = tuple(
        EdgeProfile(
            name=name,
            block_s=float(draw.uniform(0.002, 0.02)),
            crowding_s=1e-5,
            memory_bytes=2**39,
            capacity=-(-clients // edges),
        )
        for name in names
    )
    people = tuple(
        ClientProfile(
            name=f"client-{n:05d}",
            block_s=float(draw.lognormal(-3, 0.7)),
            embeddings_s=0.01,
            head_s=0.05,
            memory_bytes=int(draw.uniform(2, 12) * 2**30),
            max_bottom=int(draw.integers(1, 12)) if draw.random() < 0.2 else None,
            links={
                names[n % edges]: LinkProfile(
                    latency_ms=float(draw.lognormal(3, 1)), up_bytes_per_s=2e6, down_bytes_per_s=1e7
                )
            },
        )
        for n in range(clients)
    )
    return Problem(
        model=LARGE,
        workload=Workload.of(SPEC, WIDTH, row_tokens=120.0),
        clients=people,
        edges=servers,
        homes={client.name: next(iter(client.links)) for client in people},
        min_top=1,
    )


def cost() -> bool:
    """Print the median seconds of a plan by size; whether the bound was kept."""
    rows, medians = [], dict[tuple[int, int], float]()
    for clients, edges in SIZES:
        problem, seconds = fleet(clients, edges), []
        for _ in range(TIMES):
            begin = time.perf_counter()
            made = plan(problem)
            seconds.append(time.perf_counter() - begin)
        medians[clients, edges] = statistics.median(seconds)
        most = f"(at most {AIM_S})" if (clients, edges) == AIMED else ""
        rows.append(
            {
                "clients": f"{clients:,}",
                "edges": edges,
                "planned": len(made.clients),
                "refused": len(made.refused),
                "plan, s": f"{medians[clients, edges]:.3f} {most}".strip(),
            }
        )
    print(f"devices drawn at random; seconds of a plan, median of {TIMES}, one core\n")
    print(table(rows))
    print()
    return medians[AIMED] <= AIM_S
