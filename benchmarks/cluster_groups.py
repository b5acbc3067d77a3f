"""Whether the clients of four distributions are put into four clusters: the adjusted Rand index."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sklearn.metrics import adjusted_rand_score

from benchmarks.cluster_fleet import DOMAINS, PAIRS, TREC, Town
from benchmarks.fleet import table
from elsa.cluster.clusters import find
from elsa.cluster.divergence import divergences
from elsa.cluster.fingerprint import gaussians

CLIENTS = 16
LEAST = 0.95


@dataclass(kw_only=True)
class Groups:
    """What was found so far: the index of each seed by case."""

    found: dict[str, list[float]] = field(default_factory=dict)

    def add(self, folder: Path, town: Town, seed: int) -> None:
        """Measure both cases with one seed; `town` has TREC-6."""
        self.found.setdefault("TREC-6 pairs", []).append(_index(town, PAIRS))
        self.found.setdefault("two domains", []).append(_index(Town(folder, (TREC, "AG News"), seed), DOMAINS))

    def show(self) -> None:
        """Print the table."""
        print(f"{CLIENTS} clients of 4 distributions, 15 warm-up steps of 16 rows, 64 probes, 32 dimensions\n")
        heading = f"adjusted Rand index (at least {LEAST:g})"
        rows = [
            {
                "case": case,
                heading: f"{statistics.mean(indices):.3f}",
                "seeds": " ".join(f"{index:.2f}" for index in indices),
            }
            for case, indices in self.found.items()
        ]
        print(table(rows) + "\n")


def _index(town: Town, kinds: Sequence[Sequence[tuple[str, str]]]) -> float:
    prints, rows = town.kinds(kinds, CLIENTS)
    found = find(list(rows), divergences(gaussians(prints.first)), count=len(kinds), seed=(town.spec.seed,)).labels
    return float(adjusted_rand_score([n % len(kinds) for n in range(CLIENTS)], [found[name] for name in rows]))
