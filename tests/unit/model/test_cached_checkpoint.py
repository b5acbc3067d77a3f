"""Weights one by one: which tensors a client needs, where they lie in a checkpoint, and a checkpoint made of them."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import DECODERS, ENCODERS, LABELS, MakeFolder

from elsa.errors import CheckpointError, ChecksumError
from elsa.model.cached import CachedCheckpoint
from elsa.model.carving import owned_tensors
from elsa.model.raw import raw_tensors
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.spec import Split
from elsa.wire.manifest import TensorEntry

SPLIT = Split(bottom=1, trunk=1, top=1)
OWN = (0, 2)
SHARDED = {"max_shard_size": 4000}
EVERY = [(family, "classification") for family in ENCODERS + DECODERS] + [(f, "causal-lm") for f in DECODERS]


def cached(checkpoint: Checkpoint, folder: Path, task: Any) -> CachedCheckpoint:
    """What a client has that was sent what it needs of `checkpoint`."""
    entries, files = {}, {}
    names = owned_tensors(checkpoint, OWN, ends=True, task=task, num_labels=LABELS)
    for tensor in raw_tensors(checkpoint, names):
        data = b"".join(tensor.place.pieces(0, 1000))
        sha256 = hashlib.sha256(data).hexdigest()
        files[tensor.name] = folder / sha256
        files[tensor.name].write_bytes(data)
        entries[tensor.name] = TensorEntry(
            name=tensor.name, dtype=tensor.dtype, shape=tensor.shape, size_bytes=len(data), sha256=sha256
        )
    for file in checkpoint.beside():
        (folder / file.name).write_bytes(file.read_bytes())
    return CachedCheckpoint(
        source="far", folder=folder, architecture=checkpoint.architecture, files=files, entries=entries
    )


def client_of(checkpoint: Checkpoint, task: Any, **given: Any) -> Segment:
    return Segment.client(checkpoint, SPLIT, task=task, num_labels=LABELS, seed=3, **given)


@pytest.mark.parametrize("save", [{}, SHARDED], ids=["one file", "sharded"])
@pytest.mark.parametrize(("family", "task"), EVERY)
def test_a_client_of_what_it_needs_alone_equals_one_of_the_whole_checkpoint(
    make_folder: MakeFolder, tmp_path: Path, family: str, task: Any, save: dict[str, Any]
) -> None:
    checkpoint = Checkpoint.open(str(make_folder(family, task, **save)))
    ours = cached(checkpoint, tmp_path, task)
    got, want = client_of(ours, task), client_of(checkpoint, task)
    assert ours.entries.keys() == {name for name, _ in want.model.named_parameters()}
    assert got.model.state_dict().keys() == want.model.state_dict().keys()
    for name, values in want.model.state_dict().items():
        assert torch.equal(got.model.state_dict()[name], values), name
    assert got.new_modules == want.new_modules


@pytest.mark.parametrize("family", ENCODERS + DECODERS)
def test_a_bare_checkpoint_gives_the_same_names_and_no_head(
    make_folder: MakeFolder, tmp_path: Path, family: str
) -> None:
    checkpoint = Checkpoint.open(str(make_folder(family, "bare")))
    ours = cached(checkpoint, tmp_path, "classification")
    got, want = client_of(ours, "classification"), client_of(checkpoint, "classification")
    assert got.new_modules == want.new_modules != ()
    assert not any(name.startswith(f"{module}.") for name in ours.entries for module in got.new_modules)
    for name, values in want.model.state_dict().items():
        assert torch.equal(got.model.state_dict()[name], values), name


def test_a_range_without_ends_is_the_tensors_of_its_blocks(make_folder: MakeFolder) -> None:
    checkpoint = Checkpoint.open(str(make_folder("llama", "causal-lm")))
    names = owned_tensors(checkpoint, [1], ends=False, task="causal-lm")
    edge = Segment.edge(checkpoint, range(1, 2), task="causal-lm")
    assert set(names) == {name for name, _ in edge.model.named_parameters()}
    assert list(names) == sorted(names)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_stored_as_it_is_and_read_as_asked(
    make_folder: MakeFolder, tmp_path: Path, dtype: torch.dtype
) -> None:
    folder = make_folder("llama", "causal-lm")
    half = tmp_path / "half"
    half.mkdir()
    save_file(
        {n: t.to(dtype) for n, t in load_file(folder / "model.safetensors").items()}, half / "model.safetensors"
    )
    (half / "config.json").write_bytes((folder / "config.json").read_bytes())
    checkpoint = Checkpoint.open(str(half))
    ours = cached(checkpoint, tmp_path, "causal-lm")
    for asked in (None, torch.float32):
        want = checkpoint.read(ours.entries, asked)
        for name, values in ours.read(ours.entries, asked).items():
            assert values.dtype == (asked or dtype) and torch.equal(values, want[name])


def test_what_has_changed_or_is_missing_is_named(make_folder: MakeFolder, tmp_path: Path) -> None:
    ours = cached(Checkpoint.open(str(make_folder("bert", "classification"))), tmp_path, "classification")
    name = "bert.encoder.layer.0.output.dense.weight"
    data = bytearray(ours.files[name].read_bytes())
    for altered in (data[:-1], bytes([data[0] ^ 1]) + data[1:]):
        ours.files[name].write_bytes(altered)
        with pytest.raises(ChecksumError, match=name):
            ours.read([name])
        assert not ours.files[name].exists(), "it can come again"
    with pytest.raises(CheckpointError, match=name):
        ours.read([name])
    with pytest.raises(CheckpointError, match=r"layer\.1"):
        ours.read(["bert.encoder.layer.1.output.dense.weight"])
    assert ours.shape("bert.encoder.layer.1.output.dense.weight") is None


def test_types_that_do_not_travel_and_broken_files_are_named(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder("bert", "classification")
    name = "bert.embeddings.word_embeddings.weight"
    tensors = load_file(folder / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    save_file({**tensors, name: tensors[name].to(torch.float64)}, tmp_path / "model.safetensors")
    checkpoint = Checkpoint.open(str(tmp_path))
    with pytest.raises(CheckpointError, match=f"{name}.*F64"):
        raw_tensors(checkpoint, [name])
    with pytest.raises(CheckpointError, match="no tensor nothing"):
        raw_tensors(checkpoint, ["nothing"])
    whole = (tmp_path / "model.safetensors").read_bytes()
    other = "bert.embeddings.position_embeddings.weight"
    (tensor,) = raw_tensors(checkpoint, [other])
    (tmp_path / "model.safetensors").write_bytes(whole[: tensor.place.begin + 3])
    with pytest.raises(CheckpointError, match="shorter"):
        list(tensor.place.pieces(0, 100))
    for broken in (b"", b"\xff" * 8, b"\x02" + bytes(7) + b"[]", b"\x03" + bytes(7) + b"abc"):
        (tmp_path / "model.safetensors").write_bytes(broken)
        with pytest.raises(CheckpointError, match="cannot read"):
            raw_tensors(checkpoint, [other])
