"""The vectors that another implementation of the codecs is to be held to hold for this one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf.json_format import ParseDict

from elsa.codecs import KNOWN
from elsa.v1 import tensor_pb2 as pb
from elsa.wire.codec.registry import codec_from_proto
from elsa.wire.tensor import DTYPES, DType, raw_bytes

FILES = sorted((Path(__file__).parents[2] / "vectors" / "codecs").glob("*.json"))
TYPES = {number: dtype for dtype, number in DTYPES.items()}


def tensor(described):
    raw = bytearray.fromhex(described["hex"])
    return torch.frombuffer(raw, dtype=TYPES[DType.Value(described["dtype"])]).reshape(described["shape"])


def ready(vector):
    codec = codec_from_proto(ParseDict(vector["spec"], pb.CodecSpec()), vector["width"], "codec")
    return codec.calibrated([tensor(one) for one in vector["calibration"]])


def test_there_is_a_vector_for_every_codec():
    texts = " ".join(json.loads(file.read_text())["codec"] for file in FILES)
    assert all(name in texts for name in KNOWN)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_decoding_a_vector_gives_its_values(file):
    vector = json.loads(file.read_text())
    got = ready(vector).decode([tensor(part) for part in vector["parts"]])
    want = np.array(vector["decoded"])
    largest = np.abs(want).max(axis=1, keepdims=True)
    assert np.all(np.abs(got.numpy() - want) <= vector["tolerance"] * largest)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_encoding_a_vector_gives_its_bytes(file):
    vector = json.loads(file.read_text())
    parts = ready(vector).encode(torch.tensor(vector["values"]))
    for got, described in zip(parts, vector["parts"], strict=True):
        want = tensor(described)
        assert got.dtype == want.dtype and got.shape == want.shape
        if vector["calibration"] and want.dtype == torch.float32:  # products whose order of summing is free
            assert torch.allclose(
                got, want, rtol=vector["tolerance"], atol=vector["tolerance"] * float(want.abs().max())
            )
        else:
            assert raw_bytes(got).hex() == described["hex"]
