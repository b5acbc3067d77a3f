"""One training run through the codecs in one process: its accuracy, its bytes, and the time that codecs take.

What travels is the real messages of a step (`elsa.train.exchanged`), opening and finishing left out.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from elsa.data.batches import batches, sequential
from elsa.data.encoding import EncodedData, encode
from elsa.data.examples import read_examples
from elsa.data.source import read_rows
from elsa.model import adapter as adapters
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.protection import PrivacySpec
from elsa.spec import RunSpec, Split
from elsa.train.client_end import ClientEnd
from elsa.train.edge_end import EdgeEnd
from elsa.train.exchanged import ExchangedTrunk
from elsa.train.packing import mask_of, pack, unpack
from elsa.train.reuse import ClientRows, EdgeRows
from elsa.train.session import Position, TrunkSession
from elsa.train.step import SplitTrainer, evaluate
from elsa.train.trunk import Reply
from elsa.wire.codec.registry import codec_set_from_proto, codec_set_to_proto
from elsa.wire.kept import KeptRows, Shelf

BATCH = 16
MAX_TOKENS = 64
ROOM_BYTES = 2**32
DATA: Mapping[str, str] = {"TREC-6": "trec6", "AG News": "agnews"}


def _all(expression: str) -> dict[str, Any]:
    return {"preset": "none", "codecs": dict.fromkeys(("h1", "h2", "dh2", "dh1", "change"), expression)}


FROZEN = {"lora": {"bottom_adapters": False}}
REUSE = {"reuse": {"enabled": True}}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "none": {"preset": "none"},
    "bf16": _all("bf16"),
    "int8": _all("int8"),
    "int4": _all("int4"),
    "sketch, ratio 2": _all("sketch(rows=3, ratio=2, decode=median)"),
    "sketch, ratio 4": _all("sketch(rows=3, ratio=4, decode=median)"),
    "default": {"preset": "default"},
    "thrifty": {"preset": "thrifty"},
    "private": {"preset": "private"},
}
REUSING: Mapping[str, Mapping[str, Any]] = {
    "none, bottom frozen": {"preset": "none", **FROZEN},
    "default, reuse, bottom frozen": {"preset": "default", **FROZEN, **REUSE},
    "default, reuse, bottom trained": {"preset": "default", **REUSE},
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


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Both sides of a cut model, and what lies between them."""

    split: Split
    client: Segment
    edge: Segment
    client_end: ClientEnd
    edge_end: EdgeEnd


def parts_of(spec: RunSpec, checkpoint: Checkpoint) -> Parts:
    """Both sides, with the run's first adapter. Raises ValueError for protection, which is not measured here."""
    if spec.privacy != PrivacySpec():
        raise ValueError(f"preset {spec.preset}: its protection is not part of this measurement")
    labels, task = len(spec.data.labels), spec.model.task
    split = spec.split.of(checkpoint.config(task, labels).num_hidden_layers)
    config = adapters.adapter_config(checkpoint, spec.lora, task, labels)
    start = adapters.initial_adapter(checkpoint, config, labels, spec.seed)
    client = Segment.client(checkpoint, split, task=task, num_labels=labels, seed=spec.seed)
    edge = Segment.edge(checkpoint, split.trunk_blocks, task=task, num_labels=labels)
    for segment in (client, edge):
        adapters.attach(segment, config)
        adapters.write(segment, start)
    codecs = codec_set_from_proto(codec_set_to_proto(spec.codecs, client.width), client.width)
    frozen = not spec.lora.bottom_adapters
    client_rows, edge_rows = None, None
    if spec.reuse.enabled:
        kept = [KeptRows(Shelf(ROOM_BYTES, 0)) for _ in range(2)]
        client_rows = ClientRows(frozen=frozen, threshold=spec.reuse.threshold, kept=kept[0])
        edge_rows = EdgeRows(kept[1], client.width, frozen=frozen)
    return Parts(
        split=split,
        client=client,
        edge=edge,
        client_end=ClientEnd(codecs, client.width, split, rows=client_rows),
        edge_end=EdgeEnd(codecs, client.width, rows=edge_rows),
    )


def rows_of(spec: RunSpec, checkpoint: Checkpoint, path: Path) -> EncodedData:
    """The encoded rows of a file."""
    examples, _ = read_examples(read_rows(str(path)), spec.data, spec.model.task, str(path))
    return encode(examples, checkpoint.tokenizer(), spec.model, spec.data)[0]


@torch.no_grad()
def run_forward(parts: Parts, values: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """The trunk's output (tokens, width)."""
    parts.edge.train(False)
    return pack(parts.edge.trunk(unpack(values, lengths), mask_of(lengths), parts.split), lengths)


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """Train, test, and what both took; bytes and seconds are those of training."""
    spec = case.spec(folder)
    checkpoint = Checkpoint.open(spec.model.source)
    train, test = (rows_of(spec, checkpoint, folder / DATA[case.data] / f"{n}.jsonl.gz") for n in ("train", "test"))
    parts, task, training = parts_of(spec, checkpoint), spec.model.task, spec.training
    session = TimedSession(
        parts.edge,
        adapter="default",
        split=parts.split,
        optimizer=training.optimizer,
        window=training.window,
        wants_gradient=spec.lora.bottom_adapters,
    )
    trunk = TimedTrunk(parts.client_end, parts.edge_end, session, parts.split)
    bottom = spec.lora.bottom_adapters
    trainer = SplitTrainer(
        parts.client, trunk, split=parts.split, task=task, training=training, bottom_adapters=bottom
    )
    begin, tokens = time.perf_counter(), 0
    for batch in batches(train, BATCH, case.steps, [case.seed]):
        trainer.train_step(batch)
        tokens += sum(batch.lengths)
    seconds = time.perf_counter() - begin
    parts.client_end.rows = None  # rows that are tested are not kept
    testing = ExchangedTrunk(parts.client_end, parts.edge_end, partial(run_forward, parts), parts.split)
    score = evaluate(parts.client, testing, sequential(test.by_length(), 64), split=parts.split, task=task, window=1)
    return {
        "key": case.key(folder),
        **asdict(case),
        "accuracy": score.correct / score.count,
        "test_rows": score.count,
        "tokens": tokens,
        "width": parts.client.width,
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
