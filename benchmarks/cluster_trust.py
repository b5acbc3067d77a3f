"""Whether trust tells bad clients from honest ones, and leaves the honest ones that are rare or few alone."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.cluster_fleet import PAIRS, TREC, Fingerprints, Town
from benchmarks.fleet import table
from elsa.cluster.clusters import find
from elsa.cluster.divergence import divergences
from elsa.cluster.fingerprint import gaussians
from elsa.cluster.trust import Parts, of_fingerprints, with_updates

CLIENTS, BAD, AMPLIFIED = 20, 4, 10.0
RARE = ((TREC, "LOC"), (TREC, "ABBR"))
SMALL, EDGES, ALPHAS = range(3, 9), 2, (1.0, 0.3)
DEMO = {"batch": 8, "optimizer": {"learning_rate": 3e-3}}
"""As `elsa demo` trains, by default with alpha 1."""
LEAST_AREA, LEAST_TRUST = 0.95, 0.5


@dataclass(kw_only=True)
class Trust:
    """What was found so far, by seed."""

    early: dict[str, list[float]] = field(default_factory=dict)
    """Area under the ROC curve by way of being bad: of the trust in fingerprints alone."""
    late: dict[str, list[float]] = field(default_factory=dict)
    """The same after the first update."""
    rare: list[float] = field(default_factory=list)
    few: dict[tuple[float, int], list[float]] = field(default_factory=dict)
    """Least trust in a fleet by alpha and size."""

    def add(self, folder: Path, town: Town, seed: int) -> None:
        """Measure with the clients of one seed; `town` has TREC-6."""
        self._add_ways(town, seed)
        prints, _ = town.kinds([*PAIRS * (CLIENTS // len(PAIRS)), RARE, RARE], CLIENTS + 2)
        self.rare += _scores(*told(prints, count=len(PAIRS) + 1))[-2:]
        place = Town(folder, ("built-in corpus",), seed, DEMO)
        for alpha in ALPHAS:
            self._add_few(alpha, place.fingerprints(place.shares(max(SMALL), alpha)))

    def _add_ways(self, town: Town, seed: int) -> None:
        honest, rows = town.kinds(PAIRS, CLIENTS)
        draw = np.random.default_rng(seed)
        bad = sorted(draw.choice(CLIENTS, BAD, replace=False).tolist())
        names = list(rows)
        wrong = town.fingerprints({names[n]: town.shuffled(rows[names[n]], [seed, n]) for n in bad})
        ways = {
            "labels shuffled": _with(honest, bad, wrong),
            "random embeddings": _random(honest, bad, draw),
            "a copied fingerprint": _copied(honest, bad),
            "repeats that differ": _unsteady(honest, bad, draw),
            f"an update {AMPLIFIED:g} times as long": _amplified(honest, bad),
        }
        truth = [n not in bad for n in range(CLIENTS)]
        for way, prints in ways.items():
            before, after = told(prints, count=len(PAIRS), late=bad)
            if prints.first is not honest.first or prints.again is not honest.again:  # else there is nothing to tell
                self.early.setdefault(way, []).append(float(roc_auc_score(truth, _one(before))))
            self.late.setdefault(way, []).append(float(roc_auc_score(truth, _one(after))))

    def _add_few(self, alpha: float, prints: Fingerprints) -> None:
        """Every fleet that can be made of these clients, its clusters as many as edges, and as one."""
        for size in SMALL:
            least = self.few.setdefault((alpha, size), [])
            for fleet in itertools.combinations(range(max(SMALL)), size):
                chosen = prints.of(fleet)
                least += [min(_scores(*told(chosen, count=count))) for count in (1, EDGES)]

    def show(self) -> None:
        """Print the tables."""
        seeds = len(next(iter(self.late.values())))
        print(f"{CLIENTS} clients, {BAD} of them bad, {seeds} seeds: area under the ROC curve of trust\n")
        after = f"after the first update (at least {LEAST_AREA:g})"
        print(
            table(
                [
                    {"bad in": way, "of the fingerprint": _mean(self.early.get(way, [])), after: _mean(found)}
                    for way, found in self.late.items()
                ]
            )
        )
        print(
            f"\nleast trust of two honest clients of a distribution that none of {CLIENTS} others has: "
            f"{min(self.rare):.2f} (at least {LEAST_TRUST:g})\n"
        )
        print(
            f"fleets of few, all honest (built-in corpus, Dirichlet): the least trust of a client before and after "
            f"its first update, {seeds} seeds, every fleet that can be made of {max(SMALL)} clients\n"
        )
        rows = [
            {
                "alpha": f"{alpha:g}",
                **{f"{size} clients": f"{min(self.few[alpha, size]):.2f}" for size in SMALL},
                f"share below {LEAST_TRUST:g}": f"{_share_below([v for n in SMALL for v in self.few[alpha, n]]):.1%}",
            }
            for alpha in ALPHAS
        ]
        print(table(rows) + "\n")


def told(
    prints: Fingerprints, *, count: int, late: Sequence[int] = ()
) -> tuple[Mapping[str, Parts], Mapping[str, Parts]]:
    """The parts of trust by client, of the fingerprints, and of these and an update within the clusters found.

    The fingerprints of those numbered `late` were the last to come.
    """
    ids = [f"client-{n:02}" for n in range(len(prints.first))]
    apart = divergences(gaussians(prints.first))
    parts = of_fingerprints(
        ids,
        first=prints.first,
        again=prints.again,
        repeated=prints.repeated,
        divergence=apart,
        probabilities=prints.probabilities,
        arrival=np.arange(len(ids)) + len(ids) * np.isin(np.arange(len(ids)), late).astype(np.float64),
    )
    clusters = find(ids, apart, count=min(count, len(ids))).labels
    return parts, with_updates(parts, dict(zip(ids, prints.updates, strict=True)), clusters)


def _one(parts: Mapping[str, Parts]) -> list[float]:
    return [parts[name].score for name in sorted(parts)]


def _scores(*told: Mapping[str, Parts]) -> list[float]:
    """Of each client the least score."""
    return [min(both) for both in zip(*(_one(parts) for parts in told), strict=True)]


def _mean(found: Sequence[float]) -> str:
    return f"{statistics.mean(found):.3f} ({min(found):.2f} to {max(found):.2f})" if found else "-"


def _share_below(found: Sequence[float]) -> float:
    return sum(value < LEAST_TRUST for value in found) / len(found)


def _with(honest: Fingerprints, bad: Sequence[int], wrong: Fingerprints) -> Fingerprints:
    both = {name: values.copy() for name, values in vars(honest).items()}
    for name, values in vars(wrong).items():
        both[name][bad] = values
    return Fingerprints(**both)


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
    source = next(other for other in range(len(first)) if other not in bad)
    for n in bad:
        first[n], said[n] = honest.first[source], honest.probabilities[source]
        again[n] = honest.first[source][honest.repeated[n]]
    return replace(honest, first=first, again=again, probabilities=said)


def _unsteady(honest: Fingerprints, bad: Sequence[int], draw: np.random.Generator) -> Fingerprints:
    """Answers to repeats that are another probe's."""
    again = honest.again.copy()
    for n in bad:
        again[n] = honest.first[n][draw.permutation(honest.first.shape[1])[: again.shape[1]]]
    return replace(honest, again=again)


def _amplified(honest: Fingerprints, bad: Sequence[int]) -> Fingerprints:
    """The update of the warm-up's adapter, many times over."""
    updates = honest.updates.copy()
    updates[bad] *= AMPLIFIED
    return replace(honest, updates=updates)
