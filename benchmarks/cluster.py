"""Whether clients are grouped and trusted as they should be, and what it costs for large fleets.

    python -m benchmarks.cluster [cost groups trust] [--data ../shared/data] [--seeds 5]

`groups`: 16 really fine-tuned clients of four distributions, warmed up for 15 steps; the adjusted Rand index of the
clusters found. `trust`: 20 clients, four of them bad in one of five ways; the area under the ROC curve of trust, and
what a rare but honest distribution keeps. `cost`: fingerprints drawn at random through divergence, clusters, trust
and assignment to 50 edges.
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from benchmarks.cluster_fleet import DOMAINS, PAIRS, TREC, Fingerprints, Town
from benchmarks.fleet import table
from elsa.cluster.assignment import assign
from elsa.cluster.clusters import find
from elsa.cluster.divergence import divergences, scale, to_landmarks
from elsa.cluster.fingerprint import gaussians
from elsa.cluster.landmarks import find_by_landmarks
from elsa.cluster.problem import Problem
from elsa.cluster.trust import Parts, of_fingerprints, with_updates

PARTS = ("groups", "trust", "cost")
CLIENTS, BAD, ROWS = 16, 4, 200
SIZES, EDGES, PROBES, DIMENSIONS, LABELS = (1_000, 10_000), 50, 64, 32, 6
MOST_S: Mapping[int, float] = {1_000: 1.0, 10_000: 10.0}


def groups(folder: Path, seeds: int) -> None:
    """Print the adjusted Rand index of both cases."""
    lines = []
    for name, kinds, data in (("TREC-6 pairs", PAIRS, (TREC,)), ("two domains", DOMAINS, (TREC, "AG News"))):
        found = [_rand(Town(folder, data, seed), kinds, seed) for seed in range(seeds)]
        mean = statistics.mean(found)
        lines.append((name, f"{mean:.3f}", " ".join(f"{index:.2f}" for index in found)))
    print(f"{CLIENTS} clients of 4 distributions, 15 warm-up steps of 16 rows, 64 probes, 32 dimensions\n")
    print(_table(("case", "adjusted Rand index", f"{seeds} seeds (mean at least 0.95)"), lines) + "\n")


def trust(folder: Path, seeds: int) -> None:
    """Print the area under the ROC curve for every way of being bad, and the least trust of the honest and rare."""
    scores: dict[str, list[float]] = {}
    rare: list[float] = []
    for seed in range(seeds):
        town = Town(folder, (TREC,), seed)
        kinds = [PAIRS[place % len(PAIRS)] for place in range(CLIENTS + BAD)]
        rows = {f"client-{n:02}": town.client(kind, ROWS, [seed, n]) for n, kind in enumerate(kinds)}
        honest = town.fingerprints(rows)
        draw = np.random.default_rng(seed)
        bad = sorted(draw.choice(len(kinds), BAD, replace=False).tolist())
        names = list(rows)
        wrong = town.fingerprints({names[n]: town.shuffled(rows[names[n]], [seed, n]) for n in bad})
        spoiled: Mapping[str, Fingerprints] = {
            "labels shuffled": _with(honest, bad, wrong),
            "random embeddings": _random(honest, bad, draw),
            "a copied fingerprint": _copied(honest, bad),
            "repeats that differ": _unsteady(honest, bad, draw),
        }
        truth = [n not in bad for n in range(len(names))]
        for way, prints in spoiled.items():
            parts = _parts(names, prints, late=bad)
            scores.setdefault(way, []).append(float(roc_auc_score(truth, [parts[n].score for n in names])))
        parts = _amplified(names, honest, bad, draw)
        scores.setdefault("an update 10 times as long", []).append(
            float(roc_auc_score(truth, [parts[n].score for n in names]))
        )
        rare.append(_rarest(town, seed))
    print(f"{CLIENTS + BAD} clients, {BAD} of them bad, {seeds} seeds: area under the ROC curve of trust\n")
    lines = [(way, f"{statistics.mean(found):.3f}", f"{min(found):.3f}") for way, found in scores.items()]
    print(_table(("bad in", "mean (at least 0.95)", "least"), lines))
    print(
        f"\nleast trust of two honest clients of a distribution that no other has: {min(rare):.2f} (at least 0.5)\n"
    )


def cost() -> None:
    """Print seconds and memory by number of clients."""
    lines = []
    for clients in SIZES:
        seconds = _chain(clients)
        total = sum(seconds.values())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        share = [f"{part:.2f}" for part in seconds.values()]
        lines.append((f"{clients:,}", *share, f"{total:.2f}", f"{MOST_S[clients]:g}", f"{peak:.2f}"))
    lines.append(_landmarked(100_000))
    print(f"{PROBES} probes, {DIMENSIONS} dimensions, {EDGES} edges; seconds\n")
    print(_table(("clients", "divergence", "clusters", "trust", "assignment", "in all", "at most", "GiB"), lines))


def _rand(town: Town, kinds: Sequence[tuple[tuple[str, str], ...]], seed: int) -> float:
    truth = [place % len(kinds) for place in range(CLIENTS)]
    rows = {f"client-{n:02}": town.client(kinds[kind], ROWS, [seed, n]) for n, kind in enumerate(truth)}
    prints = town.fingerprints(rows)
    found = find(list(rows), divergences(gaussians(prints.first)), count=len(kinds), seed=(seed,))
    return float(adjusted_rand_score(truth, [found.labels[name] for name in rows]))


def _parts(names: Sequence[str], prints: Fingerprints, late: Sequence[int] = ()) -> dict[str, Parts]:
    """The parts of trust where those numbered `late` were the last to upload."""
    arrival = np.arange(len(names), dtype=np.float64) + len(names) * np.isin(np.arange(len(names)), late)
    return of_fingerprints(
        names,
        first=prints.first,
        again=prints.again,
        repeated=prints.repeated,
        divergence=divergences(gaussians(prints.first)),
        probabilities=prints.probabilities,
        arrival=arrival,
    )


def _with(honest: Fingerprints, bad: Sequence[int], wrong: Fingerprints) -> Fingerprints:
    first, again, said = honest.first.copy(), honest.again.copy(), honest.probabilities.copy()
    first[bad], again[bad], said[bad] = wrong.first, wrong.again, wrong.probabilities
    return replace(honest, first=first, again=again, probabilities=said)


def _random(honest: Fingerprints, bad: Sequence[int], draw: np.random.Generator) -> Fingerprints:
    """Made-up answers of a plausible size, the same to a probe that is asked twice."""
    first, again = honest.first.copy(), honest.again.copy()
    for n in bad:
        first[n] = draw.normal(honest.first.mean(), honest.first.std(), first[n].shape)
        again[n] = first[n][honest.repeated[n]]
    return replace(honest, first=first, again=again)


def _copied(honest: Fingerprints, bad: Sequence[int]) -> Fingerprints:
    """The answers of an honest client that came before."""
    first, again, said = honest.first.copy(), honest.again.copy(), honest.probabilities.copy()
    for n in bad:
        source = next(other for other in range(len(first)) if other not in bad)
        first[n], said[n] = honest.first[source], honest.probabilities[source]
        again[n] = honest.first[source][honest.repeated[n]]
    return replace(honest, first=first, again=again, probabilities=said)


def _unsteady(honest: Fingerprints, bad: Sequence[int], draw: np.random.Generator) -> Fingerprints:
    """Answers to repeats that are another probe's."""
    again = honest.again.copy()
    for n in bad:
        again[n] = honest.first[n][draw.permutation(honest.first.shape[1])[: again.shape[1]]]
    return replace(honest, again=again)


def _amplified(
    names: Sequence[str], honest: Fingerprints, bad: Sequence[int], draw: np.random.Generator
) -> dict[str, Parts]:
    """Updates ten times as long as honest ones; the means of fingerprints stand in for their directions."""
    means = honest.first.mean(axis=1) - honest.first.mean(axis=(0, 1))
    updates = means.mean(axis=0) + means + 0.3 * means.std() * draw.normal(size=means.shape)
    updates[bad] *= 10
    return with_updates(_parts(names, honest), dict(zip(names, updates, strict=True)), dict.fromkeys(names, 0))


def _rarest(town: Town, seed: int) -> float:
    kinds = [PAIRS[0]] * 9 + [PAIRS[1]] * 9 + [((TREC, "LOC"), (TREC, "ABBR"))] * 2
    rows = {f"client-{n:02}": town.client(kind, ROWS, [seed, 100 + n]) for n, kind in enumerate(kinds)}
    parts = _parts(list(rows), town.fingerprints(rows))
    return min(parts[name].score for name in list(rows)[-2:])


def _chain(clients: int) -> dict[str, float]:
    """Seconds of each part, over fingerprints of 50 planted groups."""
    draw = np.random.default_rng(clients)
    ids = [f"client-{n:06}" for n in range(clients)]
    centres = draw.normal(size=(EDGES, 1, DIMENSIONS))
    first = centres[np.arange(clients) % EDGES] + draw.normal(size=(clients, PROBES, DIMENSIONS))
    said = draw.dirichlet(np.ones(LABELS), size=(clients, PROBES))
    repeated = np.tile(np.arange(8), (clients, 1))
    seconds: dict[str, float] = {}
    with _timed(seconds, "divergence"):
        matrix = divergences(gaussians(first))
    with _timed(seconds, "clusters"):
        found = find(ids, matrix, count=EDGES, most=EDGES)
    with _timed(seconds, "trust"):
        again = np.take_along_axis(first, repeated[:, :, None], axis=1)
        parts = of_fingerprints(
            ids, first=first, again=again, repeated=repeated, divergence=matrix, probabilities=said
        )
    with _timed(seconds, "assignment"):
        places = [ids.index(found.medoids[cluster]) for cluster in sorted(found.medoids)]
        edges = [f"edge-{n:02}" for n in range(len(places))]
        assign(
            Problem(
                ids=tuple(ids),
                edges=tuple(edges),
                capacities=np.full(len(edges), -(-clients * 11 // (10 * len(edges)))),
                latencies_ms=draw.uniform(1, 100, (clients, len(edges))),
                distance=matrix[:, places] / scale(matrix),
                trust=np.array([parts[name].score for name in ids]),
            )
        )
    return seconds


def _landmarked(clients: int) -> tuple[str, ...]:
    draw = np.random.default_rng(clients)
    ids = [f"client-{n:06}" for n in range(clients)]
    centres = draw.normal(size=(EDGES, 1, DIMENSIONS))
    first = np.empty((clients, PROBES, DIMENSIONS), np.float32)
    for n in range(0, clients, 10_000):
        part = centres[np.arange(n, n + 10_000) % EDGES] + draw.normal(size=(10_000, PROBES, DIMENSIONS))
        first[n : n + 10_000] = part
    seconds: dict[str, float] = {}
    with _timed(seconds, "divergence"):
        made = gaussians(first)
    with _timed(seconds, "clusters"):
        find_by_landmarks(ids, lambda chosen: to_landmarks(made, chosen), landmarks=500, count=EDGES, most=EDGES)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    total = sum(seconds.values())
    return (
        f"{clients:,}, landmarks",
        *(f"{s:.2f}" for s in seconds.values()),
        "-",
        "-",
        f"{total:.2f}",
        "-",
        f"{peak:.2f}",
    )


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return table([dict(zip(headings, line, strict=True)) for line in lines])


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - begin


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {' '.join(PARTS)}; all if none is named")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the data sets")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    if unknown := sorted(set(args.parts) - set(PARTS)):
        sys.exit(f"error: no part {unknown[0]}; there are {', '.join(PARTS)}")
    wanted = args.parts or PARTS
    if "groups" in wanted:
        groups(args.data, args.seeds)
    if "trust" in wanted:
        trust(args.data, args.seeds)
    if "cost" in wanted:
        cost()


if __name__ == "__main__":
    main()
