"""Writes the test vectors of docs/codecs.md: `python tests/vectors/write_codecs.py`, from the repository's root.

Each file holds a codec as it travels, its calibration where it takes one, values, the bytes that they are encoded to
and the values that those are decoded to. Files are written anew only when the wire format changes on purpose.
"""

import json
from pathlib import Path

import torch
from google.protobuf.json_format import MessageToDict

from elsa.codecs import parse_codec
from elsa.wire.codec.base import Codec
from elsa.wire.codec.moments import Moments
from elsa.wire.codec.registry import codec_of
from elsa.wire.codec.sizes import codec_to_proto
from elsa.wire.tensor import DTYPES, DType, raw_bytes

FOLDER = Path(__file__).parent / "codecs"
WIDTH = 12
CODECS = {
    "none": "none",
    "bf16": "bf16",
    "int8": "int8",
    "int4": "int4",
    "subspace": "subspace(k=5)",
    "subspace_int4": "subspace(k=6) | int4",
    "sketch_median": "sketch(rows=3, ratio=2, seed=42)",
    "sketch_median_even": "sketch(rows=2, ratio=1.5, seed=9223372036854775807)",
    "sketch_mmse_int8": "sketch(rows=2, ratio=2, decode=mmse, seed=7) | int8",
    "topk_bitmap": "topk(fraction=0.25)",
    "subspace_topk_int4": "subspace(k=8) | topk(fraction=0.5) | int4",
}


def described(tensor: torch.Tensor) -> dict[str, object]:
    """Type, shape and bytes of a tensor."""
    return {"dtype": DType.Name(DTYPES[tensor.dtype]), "shape": list(tensor.shape), "hex": raw_bytes(tensor).hex()}


def vector(text: str, width: int = WIDTH) -> dict[str, object]:
    """What a vector file says of a codec."""
    generator = torch.Generator().manual_seed(1)
    seen = torch.randn(60, width, generator=generator) @ torch.randn(width, width, generator=generator) + 1
    values = seen[:3] * torch.tensor([[1.0], [1e-3], [100.0]])
    codec, calibration = _ready(text, seen)
    parts = codec.encode(values)
    return {
        "codec": text,
        "width": width,
        "spec": MessageToDict(codec_to_proto(parse_codec(text), width, "codec")),
        "calibration": [described(tensor) for tensor in calibration],
        "values": values.tolist(),
        "parts": [described(part) for part in parts],
        "decoded": codec.decode(parts).tolist(),
        "tolerance": 1e-5,
    }


def _ready(text: str, seen: torch.Tensor) -> tuple[Codec, list[torch.Tensor]]:
    codec, moments = codec_of(parse_codec(text), seen.shape[1]), Moments(seen.shape[1])
    moments.add(seen)
    calibration = codec.fit(moments)
    return codec.calibrated(calibration), calibration


def main() -> None:
    """Write all files."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in CODECS.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(vector(text), indent=1) + "\n")
    (FOLDER / "topk_numbers.json").write_text(json.dumps(vector("topk(fraction=0.02)", 80), indent=1) + "\n")


if __name__ == "__main__":
    main()
