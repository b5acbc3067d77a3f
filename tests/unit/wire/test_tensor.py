"""Tensors on the wire: decoding inverts encoding, and what is not as expected is refused before it is kept."""

import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, from_dtype

from elsa.errors import ChecksumError, MalformedError
from elsa.v1.split_pb2 import Backward, Forward, TrainRequest, TrainResponse
from elsa.v1.tensor_pb2 import DTYPE_INT8, Chunk, Payload, Tensor
from elsa.wire.chunks import MAX_MESSAGE_BYTES
from elsa.wire.tensor import DTYPES, Layout, PayloadAssembler, payload_to_proto, raw_bytes

SHAPES = array_shapes(max_dims=4, max_side=5)


def layout_of(tensor):
    return Layout(dtype=tensor.dtype, shape=tuple(tensor.shape))


def decode(payload, rest, layouts):
    assembler = PayloadAssembler(Payload.FromString(payload.SerializeToString()), layouts, "field")
    for piece in rest:
        assembler.add(Chunk.FromString(piece.SerializeToString()))
    return assembler.result()


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(list(DTYPES)))
    source = torch.float32 if dtype is torch.bfloat16 else dtype
    name = str(source).removeprefix("torch.")
    numbers = arrays(name, SHAPES, elements=from_dtype(np.dtype(name), allow_nan=False))
    tensor = torch.from_numpy(draw(numbers)).to(dtype)
    return torch.nan_to_num(tensor, nan=0.0, posinf=1.0, neginf=-1.0) if dtype.is_floating_point else tensor


@given(st.lists(tensors(), min_size=1, max_size=3))
def test_decode_inverts_encode(parts):
    payload, rest = payload_to_proto(parts)
    for got, part in zip(decode(payload, rest, [layout_of(part) for part in parts]), parts, strict=True):
        assert got.dtype == part.dtype and got.shape == part.shape
        assert raw_bytes(got) == raw_bytes(part)


def test_a_part_after_an_odd_number_of_bytes_is_aligned():
    parts = [torch.ones(3, dtype=torch.int8), torch.tensor([1.5, -2.0])]
    payload, rest = payload_to_proto(parts)
    got = decode(payload, rest, [layout_of(part) for part in parts])[1]
    assert torch.equal(got, parts[1]) and got.data_ptr() % 4 == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_of_the_contract_travels(dtype):
    part = torch.tensor([[0, 1, 100], [2, 3, 127]]).to(dtype)
    payload, rest = payload_to_proto([part])
    assert torch.equal(decode(payload, rest, [layout_of(part)])[0], part)


def test_elements_are_raw_little_endian_row_major():
    assert raw_bytes(torch.tensor([[1, 2], [3, 4]], dtype=torch.int32).T) == bytes.fromhex(
        "01000000 03000000 02000000 04000000"
    )
    assert raw_bytes(torch.tensor([1.0, -2.0], dtype=torch.bfloat16)) == bytes.fromhex("803f 00c0")
    assert raw_bytes(torch.ones(2, requires_grad=True)) == bytes.fromhex("0000803f") * 2


@pytest.mark.parametrize("elements", [0.1, 1, 5, 20])
def test_no_message_is_above_the_limit(elements):
    values = torch.rand(int(elements * 250_000) // 100, 100)
    payload, rest = payload_to_proto([values])
    lengths = [1] * 5000
    forward = Forward(step=2**40, micro_batch=2**31, lengths=lengths, activations=payload)
    messages = [TrainRequest(forward=forward), TrainRequest(backward=Backward(gradient=payload))]
    messages += [TrainRequest(chunk=piece) for piece in rest] + [TrainResponse(chunk=piece) for piece in rest]
    assert max(message.ByteSize() for message in messages) <= MAX_MESSAGE_BYTES
    assert torch.equal(decode(payload, rest, [layout_of(values)])[0], values)


LAYOUTS = [Layout(dtype=torch.float32, shape=(2, 3)), Layout(dtype=torch.int8, shape=(2,))]
PARTS = [torch.ones(2, 3), torch.ones(2, dtype=torch.int8)]


def other(index, **fields):
    payload, _ = payload_to_proto(PARTS)
    if fields.get("shape"):
        del payload.parts[index].shape[:]
    payload.parts[index].MergeFrom(Tensor(**fields))
    return payload


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (other(0, dtype=DTYPE_INT8), r"x\.parts\[0\]\.dtype: DTYPE_INT8, expected DTYPE_FLOAT32"),
        (other(0, dtype=99), r"x\.parts\[0\]\.dtype: 99, expected DTYPE_FLOAT32"),
        (other(0, shape=[3, 2]), r"x\.parts\[0\]\.shape: \[3, 2\], expected \[2, 3\]"),
        (other(0, shape=[6]), r"x\.parts\[0\]\.shape"),
        (other(0, shape=[2, 3, 1]), r"x\.parts\[0\]\.shape"),
        (other(1, shape=[2**32 - 1, 2**32 - 1]), r"x\.parts\[1\]\.shape"),
        (other(1, data=b"ab"), r"x\.parts\[1\]\.data: must be empty"),
        (payload_to_proto(PARTS[:1])[0], "x: 1 tensors, expected 2"),
        (payload_to_proto([*PARTS, PARTS[0]])[0], "x: 3 tensors, expected 2"),
        (Payload(), "x: 0 tensors, expected 2"),
        (Payload(parts=other(0).parts), "x: chunk at offset 0 is empty"),
        (Payload(parts=other(0).parts, chunk=Chunk(data=b"a", crc32=zlib.crc32(b"a"), last=True)), "1 of 26 bytes"),
        (
            Payload(parts=other(0).parts, chunk=Chunk(data=bytes(27), crc32=zlib.crc32(bytes(27)), last=True)),
            "x: more than the 26 bytes",
        ),
    ],
)
def test_another_layout_is_refused_by_field(payload, text):
    with pytest.raises(MalformedError, match=f"^{text}" if text.startswith("x") else text):
        PayloadAssembler(payload, LAYOUTS, "x")


def test_altered_bytes_are_refused():
    payload, _ = payload_to_proto(PARTS)
    payload.chunk.data = bytes([payload.chunk.data[0] ^ 1]) + payload.chunk.data[1:]
    with pytest.raises(ChecksumError, match=r"^x: chunk at offset 0"):
        PayloadAssembler(payload, LAYOUTS, "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_that_are_not_finite_are_refused(value, dtype):
    part = torch.zeros(3, dtype=dtype)
    part[1] = value
    payload, _ = payload_to_proto([part])
    assembler = PayloadAssembler(payload, [layout_of(part)], "h1.values")
    with pytest.raises(MalformedError, match=r"^h1\.values: holds NaN or infinity"):
        assembler.result()


def test_nothing_is_allocated_for_what_was_only_announced():
    huge = Layout(dtype=torch.float32, shape=(2**15, 2**15))
    payload, _ = payload_to_proto([torch.ones(4)])
    payload.parts[0].CopyFrom(Tensor(dtype=DTYPES[torch.float32], shape=huge.shape))
    payload.chunk.last = False
    tracemalloc.start()
    assembler = PayloadAssembler(payload, [huge], "x")  # announced and expected, not sent
    with pytest.raises(MalformedError, match="x: ended at 16 of 4294967296 bytes"):
        assembler.result()
    with pytest.raises(MalformedError, match="shape"):
        PayloadAssembler(payload, LAYOUTS[:1], "x")  # announced, not expected
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1 << 20
