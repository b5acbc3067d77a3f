"""Laws of adapters as bytes."""

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from elsa.errors import MalformedError
from elsa.wire.adapter import decode_adapter, encode_adapter, sha256

TENSORS = st.dictionaries(
    st.text("ab.", min_size=1),
    arrays(np.float32, array_shapes(max_side=4), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    min_size=1,
)


@given(TENSORS)
def test_decode_inverts_encode(tensors):
    decoded = decode_adapter(encode_adapter(tensors))
    assert list(decoded) == sorted(tensors)
    for name, tensor in tensors.items():
        assert decoded[name].shape == tensor.shape and decoded[name].tobytes() == tensor.tobytes()


@given(TENSORS)
def test_order_of_names_changes_no_byte(tensors):
    assert encode_adapter(tensors) == encode_adapter(dict(reversed(tensors.items())))


def test_strided_tensors_keep_their_values():
    tensor = np.arange(6, dtype=np.float32).reshape(2, 3).T
    assert decode_adapter(encode_adapter({"a": tensor}))["a"].tolist() == tensor.tolist()


@given(st.binary(max_size=64))
def test_other_bytes_are_malformed(data):
    with pytest.raises(MalformedError):
        decode_adapter(data)


@pytest.mark.parametrize(
    "tensor",
    [
        np.zeros(2, np.float64),
        np.zeros(2, np.float16),
        np.array([np.nan], np.float32),
        np.array([np.inf], np.float32),
        np.zeros((0, 2), np.float32),
    ],
)
def test_unusable_tensor_is_named(tensor):
    with pytest.raises(MalformedError, match=r"tensor layer\.a"):
        encode_adapter({"layer.a": tensor})
    with pytest.raises(MalformedError, match=r"tensor layer\.a"):
        decode_adapter(safetensors.numpy.save({"layer.a": tensor}))


def test_an_adapter_holds_tensors():
    with pytest.raises(MalformedError, match="no tensor"):
        encode_adapter({})
    with pytest.raises(MalformedError, match="no tensor"):
        decode_adapter(safetensors.numpy.save({}))


def test_digest_is_sha256():
    assert sha256(b"").startswith("e3b0c44298fc1c14")
