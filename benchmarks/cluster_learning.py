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
from typing import Any

import numpy as np

from benchmarks.cluster_fleet import TREC, Adapter, Array, Town
from benchmarks.cluster_progress import say
from benchmarks.fleet import table
from elsa.aggregate.fedavg import fedavg
from elsa.cluster import trust
from elsa.cluster.divergence import divergences
from elsa.cluster.fingerprint import gaussians
from elsa.cluster.summary import summary
from elsa.cluster.trust import ROUNDS as IN_A_ROW
from elsa.cluster.trust import Parts, of_fingerprints, smoothed, too_low, with_updates
from elsa.clustering import TrustSpec
from elsa.data.encoding import EncodedData

CLIENTS, BAD, ALPHA = 12, 2, 0.3
LEAST_POINTS = 3.0


@dataclass(frozen=True, kw_only=True)
class Course:
    """How long clients train."""

    rounds: int
    steps: int
    batch: int
    rate: float
    last: int = 3
    """Accuracy is the mean of so many last versions: from one to the next it goes up and down by some points."""

    @property
    def training(self) -> dict[str, Any]:
        """As a specification says it."""
        return {"batch": self.batch, "optimizer": {"learning_rate": self.rate}}


SHORT = Course(rounds=8, steps=8, batch=8, rate=4e-3)
LONG = Course(rounds=6, steps=30, batch=16, rate=2e-3)
"""Until accuracy hardly rises any more."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fleet:
    """The clients of one seed, warmed up."""

    course: Course
    town: Town
    data: Mapping[str, EncodedData]
    bad: tuple[str, ...]
    parts: Mapping[str, Parts]
    clusters: Mapping[str, int]
    test: EncodedData

    @classmethod
    def of(cls, folder: Path, seed: int, course: Course) -> "Fleet":
        """Share TREC-6 out, shuffle the labels of some clients, take and compare all fingerprints."""
        town = Town(folder, (TREC,), seed, course.training)
        data = town.shares(CLIENTS, ALPHA)
        ids = tuple(data)
        bad = tuple(str(name) for name in np.random.default_rng(seed).choice(ids, BAD, replace=False))
        data |= {name: town.shuffled(data[name], [seed, zlib.crc32(name.encode())]) for name in bad}
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
        return cls(
            course=course,
            town=town,
            data=data,
            bad=bad,
            parts=parts,
            clusters=clusters,
            test=town.test(folder, TREC),
        )

    def learn(self, how: str) -> tuple[float, dict[str, float]]:
        """Accuracy on the test rows at the end, and the last weight of each client, 0 where it is set aside.

        Args:
            how: "without trust", "with trust", or "left out": with the honest clients alone, which is the most that
                trust could give.
        """
        adapter: Adapter = self.town.start
        scores = {name: own.score for name, own in self.parts.items()}
        weights = dict(scores) if how == "with trust" else dict.fromkeys(self.data, 1.0)
        if how == "left out":
            weights |= dict.fromkeys(self.bad, 0.0)
        low: Counter[str] = Counter()
        courses: dict[str, Array] = {}
        accuracies = []
        for number in range(self.course.rounds):
            counting = [name for name in self.data if weights[name] > 0 or how == "with trust"]
            updates = {name: self._trained(name, adapter, number) for name in counting}
            moved = {name: summary(new, adapter, self.town.spec.seed) for name, new in updates.items()}
            adapter = fedavg({n: (len(self.data[n]) * weights[n], updates[n]) for n in counting if weights[n] > 0})
            if how == "with trust":
                courses = {name: trust.course(courses.get(name), own) for name, own in moved.items()}
                told = with_updates(self.parts, moved, self.clusters, courses)
                scores = smoothed(scores, {name: own.score for name, own in told.items()})
                below = too_low(scores, TrustSpec().min_trust).reasons
                low = Counter({name: low[name] + 1 for name in below})
                weights = {name: 0.0 if low[name] >= IN_A_ROW else score for name, score in scores.items()}
            if number >= self.course.rounds - self.course.last:
                accuracies.append(self.town.accuracy(adapter, self.test))
            say(f"seed {self.town.spec.seed}, {how}: round {number + 1} of {self.course.rounds}")
        return statistics.mean(accuracies), weights

    def _trained(self, name: str, start: Adapter, number: int) -> Adapter:
        seed = [self.town.spec.seed, zlib.crc32(name.encode()), number, 0]
        return self.town.trained(start, self.data[name], self.course.steps, seed).adapter


def learning(folder: Path, seeds: int, course: Course = SHORT) -> None:
    """Print the accuracy with trust and without, by seed."""
    lines, gains = [], []
    for seed in range(seeds):
        fleet = Fleet.of(folder, seed, course)
        reached = {how: fleet.learn(how) for how in ("without trust", "with trust", "left out")}
        (plain, _), (trusted, weights), (most, _) = reached.values()
        gains.append(100 * (trusted - plain))
        honest = min(weight for name, weight in weights.items() if name not in fleet.bad)
        lines.append(
            {
                "seed": seed,
                "without trust": f"{plain:.3f}",
                "with trust": f"{trusted:.3f}",
                "points": f"{gains[-1]:+.1f}",
                "the two left out": f"{most:.3f}",
                "set aside": f"{sum(weights[name] == 0 for name in fleet.bad)} of {BAD}",
                "least honest trust": f"{honest:.2f}",
            }
        )
        say(f"seed {seed}: {plain:.3f} without trust, {trusted:.3f} with, {most:.3f} with the two left out")
    print(
        f"TREC-6 over {CLIENTS} clients (Dirichlet {ALPHA}), {BAD} of them with shuffled labels; {course.rounds} "
        f"rounds of {course.steps} steps of {course.batch} rows; accuracy on the 500 test rows, mean of the last "
        f"{course.last}\n"
    )
    print(table(lines))
    print(f"\nmean gain {statistics.mean(gains):+.1f} points (at least +{LEAST_POINTS:g})\n")
