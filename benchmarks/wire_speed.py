"""What encoding and decoding a step costs, against the compute of real blocks of the same width, on random tensors.

    python -m benchmarks.wire_speed

All four tensors of a step go from a sender to a receiver, calibrations included as they come. Compute is forward and
backward of frozen blocks alone: adapters, head and optimizer, which only add to it, are left out. One thread.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from transformers import AutoModel, BertConfig, LlamaConfig, PretrainedConfig

from benchmarks.fleet import table
from elsa.codecs import CodecsSpec
from elsa.spec import RunSpec
from elsa.wire.codec.base import Codec
from elsa.wire.codec.moments import Moments
from elsa.wire.codec.registry import codec_set_from_proto, codec_set_to_proto
from elsa.wire.exchange import Receiver, Sender

ROWS, LENGTH = 16, 16
MESSAGES = 100
MOST = 0.10


@dataclass(frozen=True, kw_only=True)
class Width:
    """A model's width with a block of it, and how many blocks it has."""

    config: PretrainedConfig
    model: str
    blocks: int
    repeats: int


WIDTHS = (
    Width(
        config=BertConfig(hidden_size=384, intermediate_size=1536, num_attention_heads=12, num_hidden_layers=1),
        model="MiniLM-L6",
        blocks=6,
        repeats=20,
    ),
    Width(
        config=LlamaConfig(
            hidden_size=2048,
            intermediate_size=8192,
            num_attention_heads=32,
            num_key_value_heads=8,
            num_hidden_layers=1,
            vocab_size=8,
        ),
        model="Llama-3.2-1B",
        blocks=16,
        repeats=5,
    ),
)
SETTINGS: Mapping[str, object] = {
    "none": "none",
    "int8": "int8",
    "sketch, ratio 2": "sketch(rows=3, ratio=2, decode=median)",
    "default": "default",
    "thrifty": "thrifty",
}


def compute_s(width: Width) -> float:
    """Seconds of forward and backward of all blocks, (rows, length, width): one block is measured."""
    torch.manual_seed(0)
    model = AutoModel.from_config(width.config).requires_grad_(False)
    values = torch.randn(ROWS, LENGTH, width.config.hidden_size, requires_grad=True)

    def step() -> None:
        model(inputs_embeds=values).last_hidden_state.sum().backward()

    return width.blocks * median_s(step, width.repeats)


def exchange_s(codecs: CodecsSpec, width: int) -> float:
    """Mean seconds of a step's encoding, decoding and pulling back, over the first steps of a run."""
    built = codec_set_from_proto(codec_set_to_proto(codecs, width), width)
    ways = [
        way(built.h1, width, centred=True),
        way(built.h2, width, centred=True),
        way(built.dh2, width, centred=False),
        way(built.dh1, width, centred=False),
    ]
    draw = torch.Generator().manual_seed(0)
    values = [torch.randn(ROWS * LENGTH, width, generator=draw) for _ in range(8)]
    begin = time.perf_counter()
    for message in range(MESSAGES):
        for each in ways:
            each(values[message % len(values)])
    return (time.perf_counter() - begin) / MESSAGES


def way(codec: Codec, width: int, *, centred: bool) -> Callable[[torch.Tensor], None]:
    """One tensor's way from its sender to its receiver, and the gradient's through the codec where it has one."""
    sender, receiver = Sender(codec, "values", Moments(width, centred=centred)), Receiver(codec, "values")
    known = set[bytes]()

    def send(values: torch.Tensor) -> None:
        encoded, inforce = sender.send(values, known)
        known.add(encoded.calibration)
        arrived = receiver.receive(encoded, "values")
        if centred:
            inforce.pullback(arrived)

    return send


def median_s(step: Callable[[], None], repeats: int) -> float:
    """Median seconds of `step`, after one to warm up."""
    step()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    return sorted(seconds)[len(seconds) // 2]


def codecs_of(name: str, setting: str) -> CodecsSpec:
    """The codecs of a preset, or of one expression for all."""
    if name in ("default", "thrifty"):
        return RunSpec.model_validate({"preset": setting, "data": {"labels": ["a", "b"]}}).codecs
    return CodecsSpec.model_validate(dict.fromkeys(CodecsSpec.model_fields, setting))


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    rows: list[Mapping[str, object]] = []
    for width in WIDTHS:
        size = width.config.hidden_size
        step_s = compute_s(width)
        for name, setting in SETTINGS.items():
            spent = exchange_s(codecs_of(name, str(setting)), size)
            rows.append(
                {
                    "width": size,
                    "setting": name,
                    "compute ms": f"{1e3 * step_s:.0f}",
                    "encode and decode ms": f"{1e3 * spent:.1f}",
                    "share": f"{100 * spent / step_s:.1f} %",
                    "": f"(at most {MOST:.0%})",
                }
            )
    models = ", ".join(f"{width.config.hidden_size}: {width.blocks} blocks of {width.model}" for width in WIDTHS)
    print(f"encoding and decoding a step of {ROWS} rows of {LENGTH} tokens, one thread, {MESSAGES} steps; {models}\n")
    print(table(rows) + "\n")


if __name__ == "__main__":
    main()
