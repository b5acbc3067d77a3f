"""Fleets of really fine-tuned clients for `benchmarks.cluster`: rows of known distributions, warm-up, fingerprints.

Everything is as in a run, in one process: the warm-up goes through the split and the run's codecs, probes through
the session's trunk, and the projection is the run's.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from elsa.cluster.fingerprint import Answers, asking_order, projection
from elsa.data.encoding import EncodedData, EncodedRow, encode
from elsa.data.examples import Labelled
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

Array = NDArray[np.float64]
MAX_TOKENS = 64
DATA: Mapping[str, str] = {"TREC-6": "trec6", "AG News": "agnews"}
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
    """Of some clients, in order."""

    first: Array  # (clients, probes, dimensions)
    again: Array  # (clients, repeats, dimensions)
    repeated: NDArray[np.int64]  # (clients, repeats)
    probabilities: Array  # (clients, probes, labels)


class Town:
    """The data sets, one label space over all of them, and a model to be fine-tuned on any part."""

    def __init__(self, folder: Path, names: Sequence[str], seed: int) -> None:
        self.labels = [(name, label) for name in names for label in _labels(folder / DATA[name])]
        self.spec = RunSpec.model_validate(
            {
                "seed": seed,
                "model": {"max_tokens": MAX_TOKENS},
                "data": {"labels": [f"{name} {label}" for name, label in self.labels]},
            }
        )
        self.checkpoint = Checkpoint.open(self.spec.model.source)
        self.rows: dict[tuple[str, str], list[EncodedRow]] = {key: [] for key in self.labels}
        self._pad = 0
        for name in names:
            self._read(name, folder / DATA[name] / "train.jsonl.gz")
        self.sides = Sides.of(self.spec, self.checkpoint)
        self._start = {side: adapters.read(side) for side in (self.sides.client, self.sides.edge)}
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
        return EncodedData(rows=[held[row] for row in draw.permutation(len(held))], pad_id=self._pad)

    def shuffled(self, data: EncodedData, seed: Sequence[int]) -> EncodedData:
        """The same texts, each with a label drawn from all."""
        draw = np.random.default_rng(list(seed))
        rows = [
            EncodedRow(ids=row.ids, types=row.types, labels=int(draw.integers(len(self.labels)))) for row in data.rows
        ]
        return EncodedData(rows=rows, pad_id=data.pad_id)

    def fingerprints(self, clients: Mapping[str, EncodedData]) -> Fingerprints:
        """Warm every client up from the first adapter, and ask it the probes in its own order."""
        made = [self._one(name, data) for name, data in clients.items()]
        return Fingerprints(
            first=np.stack([answer.first for answer, _ in made]),
            again=np.stack([answer.again for answer, _ in made]),
            repeated=np.stack([answer.repeated for answer, _ in made]),
            probabilities=np.stack([said for _, said in made]),
        )

    def _one(self, name: str, data: EncodedData) -> tuple[Answers, Array]:
        for side, start in self._start.items():
            adapters.write(side, start)
        clustering = self.spec.clustering
        rehearsal = Rehearsal(self.spec, self.sides, self._states)
        session = rehearsal.session(TrunkSession)
        for _ in rehearsal.train(rehearsal.trunk(session, ExchangedTrunk), data, clustering.warmup_steps):
            pass
        seed = [self.spec.seed, zlib.crc32(name.encode())]
        order = asking_order(len(self.probes), clustering.probes.repeated, seed)
        asked = [self.probes[probe] for probe in order]
        said = answers(
            self.sides.client,
            rehearsal.trunk(session.predict, ExchangedTrunk),
            probe_batches(self.checkpoint, asked, MAX_TOKENS),
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

    def _read(self, name: str, path: Path) -> None:
        tokenizer = self.checkpoint.tokenizer()
        offset = next(place for place, (owner, _) in enumerate(self.labels) if owner == name)
        examples: list[Labelled] = []
        for _, row in read_rows(str(path)):
            examples.append(Labelled(text=str(row["text"]), label=offset + int(row["label"])))
        data, _ = encode(examples, tokenizer, self.spec.model, self.spec.data)
        self._pad = data.pad_id
        for row in data.rows:
            if isinstance(row.labels, int):
                self.rows[self.labels[row.labels]].append(row)


def _labels(folder: Path) -> list[str]:
    found: list[str] = json.loads((folder / "labels.json").read_text())
    return found
