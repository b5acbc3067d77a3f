"""What trust does for what is learned: federated split training while some clients shuffle their labels.

One adapter over clients of unlike label mixtures, as `services` makes it: each round every client trains from the
global adapter, updates are averaged by rows times trust, and trust follows the summaries of the updates.
"""

import statistics
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.cluster_fleet import TREC, Adapter, Town
from benchmarks.cluster_progress import say
from benchmarks.fleet import table
from elsa.aggregate.fedavg import fedavg
from elsa.cluster.divergence import divergences
from elsa.cluster.fingerprint import gaussians
from elsa.cluster.summary import summary
from elsa.cluster.trust import ROUNDS as IN_A_ROW
from elsa.cluster.trust import Parts, of_fingerprints, smoothed, too_low, with_updates
from elsa.clustering import TrustSpec
from elsa.data.encoding import EncodedData

CLIENTS, BAD, ALPHA = 12, 2, 0.3
ROUNDS, STEPS = 14, 8
TRAINING = {"batch": 8, "optimizer": {"learning_rate": 4e-3}}
LEAST_POINTS = 3.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Fleet:
    """The clients of one seed, warmed up."""

    town: Town
    data: Mapping[str, EncodedData]
    bad: tuple[str, ...]
    parts: Mapping[str, Parts]
    clusters: Mapping[str, int]
    test: EncodedData

    @classmethod
    def of(cls, folder: Path, seed: int) -> "Fleet":
        """Share TREC-6 out, shuffle the labels of some clients, take and compare all fingerprints."""
        town = Town(folder, (TREC,), seed, TRAINING)
        data = town.shares(CLIENTS, ALPHA)
        ids = tuple(data)
        bad = tuple(str(name) for name in np.random.default_rng(seed).choice(ids, BAD, replace=False))
        data |= {name: town.mistaken(data[name], [seed, zlib.crc32(name.encode())]) for name in bad}
        prints = town.fingerprints(data)
        apart = divergences(gaussians(prints.first))
        parts = of_fingerprints(
            ids,
            first=prints.first,
            again=prints.again,
            repeated=prints.repeated,
            divergence=apart,
            probabilities=prints.probabilities,
        )
        clusters = dict.fromkeys(ids, 0)  # one adapter for all: every update is compared with all others
        return cls(town=town, data=data, bad=bad, parts=parts, clusters=clusters, test=town.test(folder, TREC))

    def learn(self, *, trusting: bool) -> tuple[float, dict[str, float]]:
        """Accuracy on the test rows after all rounds, and the last trust of each client, 0 where it is set aside."""
        adapter: Adapter = self.town.start
        scores = {name: own.score for name, own in self.parts.items()}
        weights = dict(scores) if trusting else dict.fromkeys(self.data, 1.0)
        low: Counter[str] = Counter()
        for number in range(ROUNDS):
            updates = {name: self._trained(name, adapter, number) for name in self.data}
            moved = {name: summary(new, adapter, self.town.spec.seed) for name, new in updates.items()}
            counting = {n: (len(self.data[n]) * w, updates[n]) for n, w in weights.items() if w > 0}
            adapter = fedavg(counting)
            if trusting:
                told = with_updates(self.parts, moved, self.clusters)
                scores = smoothed(scores, {name: own.score for name, own in told.items()})
                below = too_low(scores, TrustSpec().min_trust).reasons
                low = Counter({name: low[name] + 1 for name in below})
                weights = {name: 0.0 if low[name] >= IN_A_ROW else score for name, score in scores.items()}
            how = "with" if trusting else "without"
            say(f"seed {self.town.spec.seed}, {how} trust: round {number + 1} of {ROUNDS}")
        return self.town.accuracy(adapter, self.test), weights

    def _trained(self, name: str, start: Adapter, number: int) -> Adapter:
        seed = [self.town.spec.seed, zlib.crc32(name.encode()), number, 0]
        return self.town.trained(start, self.data[name], STEPS, seed).adapter


def learning(folder: Path, seeds: int) -> None:
    """Print the accuracy with trust and without, by seed."""
    lines, gains = [], []
    for seed in range(seeds):
        fleet = Fleet.of(folder, seed)
        plain, _ = fleet.learn(trusting=False)
        trusted, weights = fleet.learn(trusting=True)
        gains.append(100 * (trusted - plain))
        honest = min(weight for name, weight in weights.items() if name not in fleet.bad)
        lines.append(
            {
                "seed": seed,
                "without trust": f"{plain:.3f}",
                "with trust": f"{trusted:.3f}",
                "points": f"{gains[-1]:+.1f}",
                "set aside": f"{sum(weights[name] == 0 for name in fleet.bad)} of {BAD}",
                "least honest trust": f"{honest:.2f}",
            }
        )
        say(f"seed {seed}: {plain:.3f} without trust, {trusted:.3f} with")
    print(
        f"TREC-6 over {CLIENTS} clients (Dirichlet {ALPHA}), {BAD} of them with mixed-up label names; {ROUNDS} "
        f"rounds of {STEPS} steps of {TRAINING['batch']} rows; accuracy on the 500 test rows\n"
    )
    print(table(lines))
    print(f"\nmean gain {statistics.mean(gains):+.1f} points (at least +{LEAST_POINTS:g})\n")
