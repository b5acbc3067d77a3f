"""One training run through the codecs in one process: its accuracy, its bytes, and the time that codecs take.

What travels is the real messages of a step (`elsa.train.rehearsal`), opening and finishing left out.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from elsa.data.encoding import EncodedData, encode
from elsa.data.examples import read_examples
from elsa.data.probes import public_probes
from elsa.data.source import read_rows
from elsa.model.weights import Checkpoint
from elsa.spec import RunSpec
from elsa.train.exchanged import ExchangedTrunk
from elsa.train.probing import probe_activations
from elsa.train.rehearsal import Rehearsal, Sides
from elsa.train.session import Position, TrunkSession
from elsa.train.trunk import Reply
from services.client.protection import Protection

BATCH = 16
MAX_TOKENS = 64
DATA: Mapping[str, str] = {"TREC-6": "trec6", "AG News": "agnews"}


def _all(expression: str) -> dict[str, Any]:
    return {"preset": "none", "codecs": dict.fromkeys(("h1", "h2", "dh2", "dh1", "change"), expression)}


SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "none": {"preset": "none"},
    "bf16": _all("bf16"),
    "int8": _all("int8"),
    "int4": _all("int4"),
    "sketch, ratio 2": _all("sketch(rows=3, ratio=2, decode=median)"),
    "sketch, ratio 4": _all("sketch(rows=3, ratio=4, decode=median)"),
    "default": {"preset": "default"},
    "thrifty": {"preset": "thrifty"},
    "private": {"preset": "private", "split": {}},  # its own
    "paper": {"preset": "paper"},
}
REUSING: Mapping[str, Mapping[str, Any]] = {
    "thrifty": {"preset": "thrifty"},
    "default, reuse": {"preset": "default", "reuse": {"enabled": True}},
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run: the folder of its rows, the name of its setting, its seed and its length."""

    data: str
    setting: str
    seed: int
    steps: int
    rate: float

    def spec(self, folder: Path) -> RunSpec:
        """The run's specification; `folder` holds the data sets."""
        labels = json.loads((folder / DATA[self.data] / "labels.json").read_text())
        return RunSpec.model_validate(
            {
                "seed": self.seed,
                "model": {"max_tokens": MAX_TOKENS},
                "data": {"labels": labels},
                "split": {"bottom": 1, "top": 1},
                "training": {"batch": BATCH, "optimizer": {"learning_rate": self.rate}},
                **(SETTINGS | REUSING)[self.setting],
            }
        )

    def key(self, folder: Path) -> str:
        """Names what is run, whatever the setting is called: settings that mean the same share a result."""
        said = [self.data, self.steps, self.spec(folder).model_dump(mode="json", exclude={"preset"})]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


class TimedSession(TrunkSession):
    """Adds up the seconds of the trunk's own work."""

    seconds = 0.0

    def forward(self, position: Position, activations: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """See `TrunkSession`."""
        begin = time.perf_counter()
        result = super().forward(position, activations, lengths)
        self.seconds += time.perf_counter() - begin
        return result

    def backward(self, position: Position, gradient: torch.Tensor, apply: bool) -> torch.Tensor | None:
        """See `TrunkSession`."""
        begin = time.perf_counter()
        result = super().backward(position, gradient, apply)
        self.seconds += time.perf_counter() - begin
        return result


class TimedTrunk(ExchangedTrunk):
    """Adds up the seconds of everything that is done at the cut, the trunk's own work included."""

    seconds = 0.0

    def forward(
        self, position: Position, activations: torch.Tensor, lengths: Sequence[int], rows: Sequence[int] = ()
    ) -> None:
        """See `ExchangedTrunk`."""
        begin = time.perf_counter()
        super().forward(position, activations, lengths, rows)
        self.seconds += time.perf_counter() - begin

    def backward(self, position: Position, gradient: torch.Tensor, apply: bool) -> None:
        """See `ExchangedTrunk`."""
        begin = time.perf_counter()
        super().backward(position, gradient, apply)
        self.seconds += time.perf_counter() - begin

    def receive(self) -> Reply:
        """See `ExchangedTrunk`."""
        begin = time.perf_counter()
        reply = super().receive()
        self.seconds += time.perf_counter() - begin
        return reply


def rows_of(spec: RunSpec, checkpoint: Checkpoint, path: Path) -> EncodedData:
    """The encoded rows of a file."""
    examples, _ = read_examples(read_rows(str(path)), spec.data, spec.model.task, str(path))
    return encode(examples, checkpoint.tokenizer(), spec.model, spec.data)[0]


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """Train, test, and what both took; bytes and seconds are those of training. All parts are a real run's."""
    spec = case.spec(folder)
    checkpoint = Checkpoint.open(spec.model.source)
    train, test = (rows_of(spec, checkpoint, folder / DATA[case.data] / f"{n}.jsonl.gz") for n in ("train", "test"))
    sides = Sides.of(spec, checkpoint)
    probes = probe_activations(sides.client, checkpoint, sides.split, public_probes(), MAX_TOKENS)
    protection = Protection(spec, sides.client, probes, None, checkpoint.tokenizer().all_special_ids)
    rehearsal = Rehearsal(
        spec,
        sides,
        probes,
        turn=protection.new_turns(),
        keyed=protection.keyed,
        blur=protection.blur,
        opponent=protection.opponent,
    )
    session = rehearsal.session(TimedSession)
    trunk = rehearsal.trunk(session, TimedTrunk)
    begin = time.perf_counter()
    tokens = sum(sum(batch.lengths) for batch in rehearsal.train(trunk, train, case.steps))
    seconds = time.perf_counter() - begin
    score = rehearsal.evaluate(test, protection.blur)
    return {
        "key": case.key(folder),
        **asdict(case),
        "accuracy": score.correct / score.count,
        "test_rows": score.count,
        "tokens": tokens,
        "width": sides.client.width,
        "up_bytes": trunk.bytes.up,
        "down_bytes": trunk.bytes.down,
        "h1_bytes": trunk.h1_bytes,
        "step_s": seconds / case.steps,
        "exchange_s": (trunk.seconds - session.seconds) / case.steps,
    }


def measured(case: Case, folder: Path, threads: int) -> dict[str, Any]:
    """`measure` in a process of its own."""
    torch.set_num_threads(threads)
    return measure(case, folder)
