"""The client in NumPy takes nothing that is not what was announced, and rounds as the package does."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy_client import peers, wire

from elsa.v1 import adapter_pb2, split_pb2, tensor_pb2

DATA = bytes(range(16))


def digest(data):
    return hashlib.sha256(data).hexdigest()


class Stream:
    """Answers that were made before."""

    def __init__(self, *messages):
        self._messages = iter(messages)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._messages)

    def cancel(self):
        """Nothing is left to come."""


def test_a_piece_with_another_checksum_is_refused():
    (piece,) = wire.chunks(DATA)
    piece.data = DATA[::-1]
    with pytest.raises(ValueError, match="altered on the way"):
        wire.joined(iter([piece]))


def test_contents_of_another_digest_are_refused():
    def asked(request, timeout):
        entry = split_pb2.FileEntry(name="config.json", sha256=digest(DATA), size_bytes=len(DATA))
        manifest = split_pb2.FetchBlocksResponse(manifest=split_pb2.BaseManifest(files=[entry]))
        if not request.wanted:
            return Stream(manifest)
        (chunk,) = wire.chunks(sent)
        content = split_pb2.ContentHeader(sha256=digest(DATA))
        sending = split_pb2.FetchBlocksResponse(content=content), split_pb2.FetchBlocksResponse(chunk=chunk)
        return Stream(manifest, *sending)

    stub = SimpleNamespace(FetchBlocks=asked)
    sent = DATA
    files, _ = peers.fetch(stub, split_pb2.FetchBlocksRequest())
    assert files == {"config.json": DATA}
    sent = DATA[::-1]
    with pytest.raises(ValueError, match="sent other contents"):
        peers.fetch(stub, split_pb2.FetchBlocksRequest())


def test_an_adapter_of_another_digest_is_refused():
    data, other = (wire.write_adapter({"a": np.full(3, value, np.float32)}) for value in (1, 2))

    def asked(request, timeout):
        (chunk,) = wire.chunks(sent)
        header = adapter_pb2.PulledHeader(version=1, sha256=digest(data), total_bytes=len(data))
        return Stream(adapter_pb2.PullAdapterResponse(header=header), adapter_pb2.PullAdapterResponse(chunk=chunk))

    stub = SimpleNamespace(PullAdapter=asked)
    sent = data
    _, tensors = peers.pull(stub, adapter_pb2.PullAdapterRequest())
    np.testing.assert_array_equal(tensors["a"], np.ones(3, np.float32))
    sent = other
    with pytest.raises(ValueError, match="not the one that was announced"):
        peers.pull(stub, adapter_pb2.PullAdapterRequest())


def test_halves_are_rounded_to_the_even_neighbour_as_torch_does():
    steps = np.arange(-64, 65, dtype=np.float32)[:, None]
    values = 1 + steps * np.float32(2.0**-9)  # each fourth lies just between two of bfloat16
    ((kind, halves),) = wire.encode(values, "bf16")
    assert kind == tensor_pb2.DType.DTYPE_BFLOAT16
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
    np.testing.assert_array_equal(halves, expected)
