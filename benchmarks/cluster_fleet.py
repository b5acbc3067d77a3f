"""Fleets of really fine-tuned clients for `benchmarks.cluster`: rows of known distributions, warm-up, fingerprints.

Everything is as in a run, in one process: training goes through the split and the run's codecs, probes through the
session's trunk, and the projection and the summary of the update are the run's. What a client's warm-up gave is kept
in `KEPT`, so that a benchmark that was broken off goes on there.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cluster_progress import say
from elsa.cluster.fingerprint import Answers, asking_order, projection
from elsa.cluster.summary import summary
from elsa.data.batches import batches
from elsa.data.corpus import LABELS as CORPUS_LABELS
from elsa.data.encoding import EncodedData, EncodedRow, encode
from elsa.data.examples import Labelled
from elsa.data.partition import dirichlet
from elsa.data.probes import probes_of, public_probes
from elsa.data.source import read_rows
from elsa.model import adapter as adapters
from elsa.model.weights import Checkpoint
from elsa.spec import RunSpec
from elsa.train.answering import answers
from elsa.train.exchanged import ExchangedTrunk
from elsa.train.probing import probe_activations, probe_batches
from elsa.train.rehearsal import Rehearsal, Sides
from elsa.train.session import TrunkSession
from elsa.train.step import SplitTrainer

Array = NDArray[np.float64]
Adapter = Mapping[str, NDArray[np.float32]]
MAX_TOKENS = 64
KEPT = Path("elsa-bench/cluster")
ROWS = 200
"""Of a client of one of the distributions below."""
DATA: Mapping[str, str] = {"TREC-6": "trec6", "AG News": "agnews", "built-in corpus": "builtin"}
TREC = "TREC-6"
PAIRS: Sequence[tuple[tuple[str, str], ...]] = (
    ((TREC, "ENTY"), (TREC, "HUM")),
    ((TREC, "DESC"), (TREC, "NUM")),
    ((TREC, "LOC"), (TREC, "ENTY")),
    ((TREC, "HUM"), (TREC, "DESC")),
)
"""Four label-skewed distributions of TREC-6, some of which share a label."""
DOMAINS: Sequence[tuple[tuple[str, str], ...]] = (
    ((TREC, "ENTY"), (TREC, "HUM")),
    ((TREC, "DESC"), (TREC, "NUM")),
    (("AG News", "World"), ("AG News", "Sports")),
    (("AG News", "Business"), ("AG News", "Sci/Tech")),
)
"""Two domains with two label skews each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fingerprints:
    """Of some clients, in order, and what their warm-up changed."""

    first: Array  # (clients, probes, dimensions)
    again: Array  # (clients, repeats, dimensions)
    repeated: NDArray[np.int64]  # (clients, repeats)
    probabilities: Array  # (clients, probes, labels)
    updates: Array  # (clients, SIZE), summaries of the adapter after warm-up less the first

    def of(self, clients: Sequence[int]) -> "Fingerprints":
        """Those of some of the clients."""
        at = np.array(clients, np.int64)
        return Fingerprints(**{name: values[at] for name, values in vars(self).items()})


class Town:
    """The data sets, one label space over all of them, and a model to be fine-tuned on any part."""

    def __init__(
        self, folder: Path, names: Sequence[str], seed: int, training: Mapping[str, Any] | None = None
    ) -> None:
        self.labels = [(name, label) for name in names for label in _labels(folder, name)]
        self.spec = RunSpec.model_validate(
            {
                "seed": seed,
                "model": {"max_tokens": MAX_TOKENS},
                "data": {"labels": [f"{name} {label}" for name, label in self.labels]},
                "training": training or {},
            }
        )
        self.checkpoint = Checkpoint.open(self.spec.model.source)
        self.rows: dict[tuple[str, str], list[EncodedRow]] = {key: [] for key in self.labels}
        self._pad = 0
        for name in names:
            for row in self._read(name, source(folder, name, "train")):
                self.rows[self.labels[label_of(row)]].append(row)
        self.sides = Sides.of(self.spec, self.checkpoint)
        self.start: Adapter = {
            k: v for side in (self.sides.client, self.sides.edge) for k, v in adapters.read(side).items()
        }
        texts = public_probes()
        self._states = probe_activations(self.sides.client, self.checkpoint, self.sides.split, texts, MAX_TOKENS)
        self.probes = probes_of(self.spec.clustering.probes)

    def client(self, labels: Sequence[tuple[str, str]], rows: int, seed: Sequence[int]) -> EncodedData:
        """`rows` rows drawn from those of some labels, as many of each."""
        draw = np.random.default_rng(list(seed))
        held: list[EncodedRow] = []
        for key in labels:
            there = self.rows[key]
            chosen = draw.choice(len(there), size=min(rows // len(labels), len(there)), replace=False)
            held += [there[row] for row in chosen]
        return self._data([held[row] for row in draw.permutation(len(held))])

    def kinds(
        self, kinds: Sequence[Sequence[tuple[str, str]]], clients: int
    ) -> tuple[Fingerprints, dict[str, EncodedData]]:
        """The fingerprints and rows of clients whose labels are the `kinds` in turn."""
        seed = self.spec.seed
        rows = {f"client-{n:02}": self.client(kinds[n % len(kinds)], ROWS, [seed, n]) for n in range(clients)}
        return self.fingerprints(rows), rows

    def shares(self, clients: int, alpha: float) -> dict[str, EncodedData]:
        """All rows, shared out to clients by Dirichlet's label skew."""
        rows = [row for key in self.labels for row in self.rows[key]]
        parts = dirichlet([label_of(row) for row in rows], clients, alpha, self.spec.seed)
        return {f"client-{n:02}": self._data([rows[row] for row in part]) for n, part in enumerate(parts)}

    def shuffled(self, data: EncodedData, seed: Sequence[int]) -> EncodedData:
        """The same texts, each with a label drawn from all."""
        draw = np.random.default_rng(list(seed))
        return self._data(
            [
                EncodedRow(ids=row.ids, types=row.types, labels=int(draw.integers(len(self.labels))))
                for row in data.rows
            ]
        )

    def test(self, folder: Path, name: str) -> EncodedData:
        """The test rows of a data set."""
        return self._data(self._read(name, source(folder, name, "test")))

    def fingerprints(self, clients: Mapping[str, EncodedData]) -> Fingerprints:
        """Warm every client up from the first adapter, and ask it the probes in its own order."""
        made = [self._warmed(name, data) for name, data in clients.items()]
        return Fingerprints(**{name: np.stack([own[name] for own in made]) for name in made[0]})

    def trained(self, start: Adapter, data: EncodedData, steps: int, seed: Sequence[int]) -> "Trained":
        """A client's training from `start`; the next call ends it."""
        for side in (self.sides.client, self.sides.edge):
            adapters.write(side, start)
        rehearsal = Rehearsal(self.spec, self.sides, self._states)
        session = rehearsal.session(TrunkSession)
        trainer = SplitTrainer(
            self.sides.client,
            rehearsal.trunk(session, ExchangedTrunk),
            split=self.sides.split,
            task=self.spec.model.task,
            training=self.spec.training,
        )
        for batch in batches(data, self.spec.training.batch, steps, seed):
            trainer.train_step(batch)
        whole = {**adapters.read(self.sides.client), **session.finish(steps)}
        return Trained(adapter=whole, rehearsal=rehearsal, session=session)

    def answered(self, trained: "Trained", name: str) -> tuple[Answers, Array]:
        """What a client's trained model answers to the probes, asked in its own order, and its (probes, labels)."""
        clustering = self.spec.clustering
        order = asking_order(
            len(self.probes), clustering.probes.repeated, [self.spec.seed, zlib.crc32(name.encode())]
        )
        said = answers(
            self.sides.client,
            trained.rehearsal.answering(trained.session.predict),
            probe_batches(self.checkpoint, [self.probes[probe] for probe in order], MAX_TOKENS),
            split=self.sides.split,
            task=self.spec.model.task,
            pooling=clustering.probes.pooling,
        )
        embeddings = said.embeddings.double().numpy()
        columns = projection(embeddings.shape[1], clustering.dimensions, [self.spec.seed])
        if said.probabilities is None:
            raise RuntimeError("a classifier gives probabilities")
        first = np.unique(order, return_index=True)[1]
        return Answers.of(embeddings @ columns, order), said.probabilities.double().numpy()[first]

    def accuracy(self, adapter: Adapter, test: EncodedData) -> float:
        """Of an adapter, through the split."""
        for side in (self.sides.client, self.sides.edge):
            adapters.write(side, adapter)
        score = Rehearsal(self.spec, self.sides, self._states).evaluate(test, None)
        return score.correct / score.count

    def _warmed(self, name: str, data: EncodedData) -> Mapping[str, NDArray[Any]]:
        """One client's part of `Fingerprints`, by the name of the field."""
        path = KEPT / f"{self._key(name, data)}.npz"
        if not path.is_file():
            seed = [self.spec.seed, zlib.crc32(name.encode()), 0, 0]
            trained = self.trained(self.start, data, self.spec.clustering.warmup_steps, seed)
            own, said = self.answered(trained, name)
            moved = summary(trained.adapter, self.start, self.spec.seed).astype(np.float64)
            KEPT.mkdir(parents=True, exist_ok=True)
            aside = path.with_suffix(".part.npz")
            np.savez(
                aside, first=own.first, again=own.again, repeated=own.repeated, probabilities=said, updates=moved
            )
            aside.rename(path)
            say(f"seed {self.spec.seed}: {name} is warmed up")
        with np.load(path) as kept:
            return dict(kept)

    def _key(self, name: str, data: EncodedData) -> str:
        """Names all that a warm-up depends on but the code."""
        spec = self.spec.model_dump(mode="json", include={"seed", "model", "split", "lora", "training", "codecs"})
        asked = self.spec.clustering
        said = [spec, len(self.labels), asked.warmup_steps, asked.dimensions, asked.probes.pooling, self.probes, name]
        rows = [(list(row.ids), label_of(row)) for row in data.rows]
        return hashlib.sha256(json.dumps([said, rows], sort_keys=True).encode()).hexdigest()[:24]

    def _read(self, name: str, path: str) -> list[EncodedRow]:
        place = {label: at for at, (owner, label) in enumerate(self.labels) if owner == name}
        offset = min(place.values())
        examples: list[Labelled] = []
        for _, row in read_rows(path):
            label = row["label"]
            at = offset + label if isinstance(label, int) else place[str(label)]
            examples.append(Labelled(text=str(row["text"]), label=at))
        data, _ = encode(examples, self.checkpoint.tokenizer(), self.spec.model, self.spec.data)
        self._pad = data.pad_id
        return list(data.rows)

    def _data(self, rows: Sequence[EncodedRow]) -> EncodedData:
        return EncodedData(rows=list(rows), pad_id=self._pad)


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """One client's training, until the model is trained anew."""

    adapter: Adapter
    rehearsal: Rehearsal
    session: TrunkSession


def source(folder: Path, name: str, part: str) -> str:
    """Where the rows of a data set are, as `read_rows` wants it."""
    return DATA[name] if DATA[name] == "builtin" else str(folder / DATA[name] / f"{part}.jsonl.gz")


def label_of(row: EncodedRow) -> int:
    """The class of a row of a classification task."""
    if not isinstance(row.labels, int):
        raise RuntimeError("a classifier's rows have one label each")
    return row.labels


def _labels(folder: Path, name: str) -> list[str]:
    if DATA[name] == "builtin":
        return list(CORPUS_LABELS)
    found: list[str] = json.loads((folder / DATA[name] / "labels.json").read_text())
    return found
