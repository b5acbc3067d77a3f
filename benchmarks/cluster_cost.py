"""What it costs to compare, group, judge and place large fleets: fingerprints of planted groups drawn at random."""

import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from benchmarks.cluster_progress import say
from benchmarks.fleet import table
from elsa.cluster.assignment import assign
from elsa.cluster.clusters import Clusters, find
from elsa.cluster.divergence import divergences, scale, to_landmarks
from elsa.cluster.fingerprint import gaussians
from elsa.cluster.landmarks import find_by_landmarks
from elsa.cluster.problem import Problem
from elsa.cluster.trust import of_fingerprints, of_neighbours
from elsa.cluster.trust_landmarks import nearest_by_landmarks

Array = NDArray[np.float64]
EDGES, PROBES, REPEATS, DIMENSIONS, LABELS = 50, 64, 8, 32, 6
MOST_S: Mapping[int, float] = {1_000: 1.0, 2_000: 10.0, 5_000: 10.0, 10_000: 10.0}
LANDMARKS, SIZES, AGREE = 500, (10_000, 30_000, 100_000), 5_000
LEAST_AGREEMENT = 0.95


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """Clients of as many planted groups as there are edges."""

    ids: tuple[str, ...]
    first: NDArray[np.float32]  # (clients, probes, dimensions)
    said: NDArray[np.float32]  # (clients, probes, labels)
    repeated: NDArray[np.int64]  # (clients, repeats)

    @classmethod
    def of(cls, clients: int) -> "Drawn":
        """A few thousand at a time, so that no second copy is made."""
        draw = np.random.default_rng(clients)
        centres = draw.normal(size=(EDGES, 1, DIMENSIONS)).astype(np.float32)
        first = np.empty((clients, PROBES, DIMENSIONS), np.float32)
        said = np.empty((clients, PROBES, LABELS), np.float32)
        for start in range(0, clients, 1_000):
            block = slice(start, start + 1_000)
            first[block] = draw.standard_normal(first[block].shape, np.float32)
            first[block] += centres[np.arange(start, min(start + 1_000, clients)) % EDGES]
            said[block] = draw.dirichlet(np.ones(LABELS), size=said[block].shape[:2])
        return cls(
            ids=tuple(f"client-{n:06}" for n in range(clients)),
            first=first,
            said=said,
            repeated=np.tile(np.arange(REPEATS), (clients, 1)),
        )


def cost() -> None:
    """Print seconds and memory by number of clients, and how far landmarks agree with the whole matrix."""
    lines = [_line(f"{clients:,}", _whole(clients), most) for clients, most in MOST_S.items()]
    lines += [_line(f"{clients:,}, {LANDMARKS} landmarks", _landmarked(clients), None) for clients in SIZES]
    print(f"{PROBES} probes, {DIMENSIONS} dimensions, {EDGES} groups and edges; seconds\n")
    print(table(lines))
    print(
        f"\nclusters by landmarks and by the whole matrix, {AGREE:,} clients: adjusted Rand index {_agreement():.3f} "
        f"(at least {LEAST_AGREEMENT:g})\n"
    )


def _line(name: str, seconds: Mapping[str, float], most: float | None) -> dict[str, str]:
    total = sum(seconds.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    say(f"{name}: {total:.1f} s")
    parts = {part: f"{own:.2f}" for part, own in seconds.items()}
    return {
        "clients": name,
        **parts,
        "in all": f"{total:.2f}",
        "at most": "-" if most is None else f"{most:g}",
        "GiB so far": f"{peak:.2f}",
    }


def _whole(clients: int) -> dict[str, float]:
    """Seconds of each part, by the whole matrix."""
    drawn = Drawn.of(clients)
    seconds: dict[str, float] = {}
    with _timed(seconds, "divergence"):
        matrix = divergences(gaussians(drawn.first))
    with _timed(seconds, "clusters"):
        found = find(drawn.ids, matrix, count=EDGES, most=EDGES)
    with _timed(seconds, "trust"):
        parts = of_fingerprints(
            drawn.ids,
            first=drawn.first,
            again=_again(drawn),
            repeated=drawn.repeated,
            divergence=matrix,
            probabilities=drawn.said,
        )
    with _timed(seconds, "assignment"):
        trust = np.array([parts[name].score for name in drawn.ids])
        _assign(drawn, found, matrix[:, _places(drawn, found)] / scale(matrix), trust)
    return seconds


def _landmarked(clients: int) -> dict[str, float]:
    """Seconds of each part, by the columns of some clients."""
    drawn = Drawn.of(clients)
    seconds: dict[str, float] = {}
    kept: list[Array] = []
    with _timed(seconds, "divergence"):
        made = gaussians(drawn.first)

    def columns(chosen: NDArray[np.int64]) -> Array:
        kept.append(to_landmarks(made, chosen))
        return kept[0]

    with _timed(seconds, "clusters"):
        found = find_by_landmarks(drawn.ids, columns, landmarks=LANDMARKS, count=EDGES, most=EDGES)
    with _timed(seconds, "trust"):
        near = nearest_by_landmarks(kept[0], lambda rows: divergences(made[rows]))
        parts = of_neighbours(
            drawn.ids,
            first=drawn.first,
            again=_again(drawn),
            repeated=drawn.repeated,
            near=near,
            probabilities=drawn.said,
        )
    with _timed(seconds, "assignment"):
        trust = np.array([parts[name].score for name in drawn.ids])
        to_medoids = to_landmarks(made, np.array(_places(drawn, found)))
        _assign(drawn, found, to_medoids / float(np.median(kept[0])), trust)
    return seconds


def _agreement() -> float:
    drawn = Drawn.of(AGREE)
    made = gaussians(drawn.first)
    whole = find(drawn.ids, divergences(made), count=EDGES, most=EDGES).labels
    some = find_by_landmarks(
        drawn.ids, lambda chosen: to_landmarks(made, chosen), landmarks=LANDMARKS, count=EDGES, most=EDGES
    ).labels
    return float(adjusted_rand_score([whole[name] for name in drawn.ids], [some[name] for name in drawn.ids]))


def _again(drawn: Drawn) -> NDArray[np.float32]:
    return np.take_along_axis(drawn.first, drawn.repeated[:, :, None], axis=1)


def _places(drawn: Drawn, found: Clusters) -> list[int]:
    place = {name: at for at, name in enumerate(drawn.ids)}
    return [place[found.medoids[cluster]] for cluster in sorted(found.medoids)]


def _assign(drawn: Drawn, found: Clusters, distance: Array, trust: Array) -> None:
    """To edges with a tenth more room than there are clients, each the home of a cluster."""
    clients, edges = len(drawn.ids), len(found.medoids)
    assign(
        Problem(
            ids=drawn.ids,
            edges=tuple(f"edge-{n:02}" for n in range(edges)),
            capacities=np.full(edges, -(-clients * 11 // (10 * edges))),
            latencies_ms=np.random.default_rng(0).uniform(1, 100, (clients, edges)),
            distance=distance,
            trust=trust,
        )
    )


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - begin
