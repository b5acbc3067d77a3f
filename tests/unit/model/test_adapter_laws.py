"""Adapters of a split model make one whole adapter; those of several sessions never mix."""

import gc
import re
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from tiny_models import BLOCKS, LABELS, MakeFolder, full_adapter

from elsa.errors import MalformedError, NotFoundError
from elsa.model import adapter
from elsa.model.architecture import FAMILIES, block_index
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.spec import LoraSpec, Split

SPLIT = Split(bottom=1, trunk=1, top=1)
WIDE = Split(bottom=1, trunk=2, top=0)
MASK = torch.ones(2, 5, dtype=torch.long)


def edge_of(checkpoint: Checkpoint) -> Segment:
    return Segment.edge(checkpoint, range(1, BLOCKS), task="classification", num_labels=LABELS)


def trunk_step(edge: Segment, name: str, split: Split, seed: int) -> torch.Tensor:
    """A forward of one session; its backward is the caller's."""
    draw = torch.Generator().manual_seed(seed)
    adapter.select(edge, name)
    return edge.trunk(torch.randn(2, 5, 16, generator=draw), MASK, split).square().sum()


def grads(edge: Segment, name: str, split: Split) -> list[np.ndarray]:
    return [parameter.grad.numpy().copy() for parameter in adapter.parameters(edge, name, split)]


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_interleaved_sessions_get_the_gradients_that_they_get_alone(make_folder: MakeFolder, family: str) -> None:
    checkpoint = Checkpoint.open(str(make_folder(family, "classification")))
    sessions = {"edge-1.session": (SPLIT, 1), "lora": (WIDE, 2)}  # names that PEFT itself would stumble on
    alone, losses = {}, {}
    for name, (split, seed) in sessions.items():
        edge = edge_of(checkpoint)
        config, tensors = full_adapter(checkpoint, "classification", seed)
        adapter.attach(edge, config, name)
        adapter.write(edge, tensors, name)
        trunk_step(edge, name, split, seed).backward()
        alone[name] = grads(edge, name, split)
    edge = edge_of(checkpoint)
    for name, (_, seed) in sessions.items():
        config, tensors = full_adapter(checkpoint, "classification", seed)
        adapter.attach(edge, config, name)
        adapter.write(edge, tensors, name)
    for name, (split, seed) in sessions.items():
        losses[name] = trunk_step(edge, name, split, seed)
    for name, (split, _) in sessions.items():  # in order, so each backward runs under another's selection
        losses[name].backward()
        for got, want in zip(grads(edge, name, split), alone[name], strict=True):
            assert np.abs(want).max() > 0
            assert np.array_equal(got, want)


def test_a_further_session_leaves_the_others_as_they_were(make_folder: MakeFolder) -> None:
    checkpoint = Checkpoint.open(str(make_folder("bert", "classification")))
    edge = edge_of(checkpoint)
    bare = edge.trunk(torch.ones(2, 5, 16), MASK, WIDE)
    config, tensors = full_adapter(checkpoint, "classification")
    adapter.attach(edge, config, "a")
    adapter.write(edge, tensors, "a")
    want = adapter.read(edge, "a")
    with_adapter = edge.trunk(torch.ones(2, 5, 16), MASK, WIDE)
    assert not torch.allclose(with_adapter, bare)
    adapter.attach(edge, config, "b")
    adapter.write(edge, full_adapter(checkpoint, "classification", 9)[1], "b")
    assert not torch.allclose(edge.trunk(torch.ones(2, 5, 16), MASK, WIDE), with_adapter)
    adapter.select(edge, "a")
    assert torch.equal(edge.trunk(torch.ones(2, 5, 16), MASK, WIDE), with_adapter)
    assert all(np.array_equal(want[name], got) for name, got in adapter.read(edge, "a").items())
    trunk_step(edge, "a", WIDE, 0).backward()
    assert all(np.abs(grad).max() > 0 for grad in grads(edge, "a", WIDE))


def test_a_client_can_hold_two_adapters_with_heads(make_folder: MakeFolder) -> None:
    checkpoint = Checkpoint.open(str(make_folder("distilbert", "classification")))
    client = Segment.client(checkpoint, SPLIT, task="classification", num_labels=LABELS)
    logits = {}
    for name, seed in (("a", 1), ("b", 2)):
        config, tensors = full_adapter(checkpoint, "classification", seed)
        tensors["base_model.model.classifier.bias"] = np.full(LABELS, seed, dtype=np.float32)
        adapter.attach(client, config, name)
        adapter.write(client, tensors, name)
        logits[name] = client.top(torch.ones(2, 5, 16), MASK, MASK, SPLIT)
    adapter.select(client, "a")
    assert torch.equal(client.top(torch.ones(2, 5, 16), MASK, MASK, SPLIT), logits["a"])
    adapter.select(client, "b")
    assert torch.equal(client.top(torch.ones(2, 5, 16), MASK, MASK, SPLIT), logits["b"])
    adapter.attach(client, config, "c")
    adapter.write(client, tensors, "c")
    assert torch.equal(client.top(torch.ones(2, 5, 16), MASK, MASK, SPLIT), logits["b"])
    client.top(torch.ones(2, 5, 16), MASK, MASK, SPLIT).square().sum().backward()
    assert all(parameter.grad is not None for parameter in adapter.parameters(client, "c", SPLIT)[-4:])


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "gpt2", "llama", "gemma"])
def test_parts_make_the_whole_adapter_whatever_the_split(make_folder: MakeFolder, family: str) -> None:
    checkpoint = Checkpoint.open(str(make_folder(family, "classification")))
    config, tensors = full_adapter(checkpoint, "classification")
    edge = edge_of(checkpoint)
    adapter.attach(edge, config)
    adapter.write(edge, tensors)
    for split in (SPLIT, WIDE, Split(bottom=2, trunk=1, top=0)):
        client = Segment.client(checkpoint, split, task="classification", num_labels=LABELS)
        adapter.attach(client, config)
        adapter.write(client, tensors)
        trunk, ends = adapter.read(edge, split=split), adapter.read(client, split=split)
        assert not trunk.keys() & ends.keys()
        assert {block_index(name, edge.architecture) for name in trunk} == set(split.trunk_blocks)
        merged = trunk | ends
        assert merged.keys() == tensors.keys()
        assert all(np.array_equal(merged[name], tensors[name]) for name in tensors)
        assert all(array.dtype == np.float32 for array in merged.values())


def test_read_gives_copies_and_write_changes_in_place(make_folder: MakeFolder) -> None:
    checkpoint = Checkpoint.open(str(make_folder("bert", "classification")))
    edge = edge_of(checkpoint)
    config, tensors = full_adapter(checkpoint, "classification")
    adapter.attach(edge, config)
    parameters = adapter.parameters(edge)
    adapter.write(edge, {name: array[:] for name, array in frozen(tensors).items()})
    assert all(one is other for one, other in zip(parameters, adapter.parameters(edge), strict=True))
    taken = adapter.read(edge)
    for array in taken.values():
        array += 1
    assert all(np.array_equal(array, tensors[name]) for name, array in adapter.read(edge).items())


def frozen(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same arrays, read-only as those that come from the wire."""
    return {name: np.frombuffer(a.tobytes(), dtype=a.dtype).reshape(a.shape) for name, a in tensors.items()}


def test_a_write_that_lacks_a_tensor_changes_nothing(make_folder: MakeFolder) -> None:
    checkpoint = Checkpoint.open(str(make_folder("bert", "classification")))
    edge = edge_of(checkpoint)
    config, tensors = full_adapter(checkpoint, "classification")
    adapter.attach(edge, config)
    before = adapter.read(edge)
    last = max(before)
    lacking = {name: array for name, array in tensors.items() if name != last}
    for wrong in (lacking, lacking | {last: np.zeros((3, 3), dtype=np.float32)}):
        with pytest.raises(MalformedError, match=re.escape(last)):
            adapter.write(edge, wrong)
        assert all(np.array_equal(array, before[name]) for name, array in adapter.read(edge).items())
    adapter.write(edge, lacking, split=SPLIT)  # block 2 is not in this session's trunk


def test_adapters_that_are_not_there_are_named(make_folder: MakeFolder) -> None:
    checkpoint = Checkpoint.open(str(make_folder("bert", "classification")))
    edge = edge_of(checkpoint)
    with pytest.raises(NotFoundError, match="attach one first"):
        adapter.read(edge)
    config, _ = full_adapter(checkpoint, "classification")
    adapter.attach(edge, config, "a")
    with pytest.raises(NotFoundError, match=r"'b'.*\['a'\]"):
        adapter.select(edge, "b")
    with pytest.raises(MalformedError, match="'a' is attached already"):
        adapter.attach(edge, config, "a")


def test_every_machine_draws_the_same_adapter(make_folder: MakeFolder) -> None:
    folder = make_folder("bert", "bare")
    code = (
        "import hashlib\n"
        "from elsa.model import adapter\n"
        "from elsa.model.weights import Checkpoint\n"
        "from elsa.spec import LoraSpec\n"
        f"checkpoint = Checkpoint.open({str(folder)!r})\n"
        "config = adapter.adapter_config(checkpoint, LoraSpec(), 'classification', 3)\n"
        "tensors = adapter.initial_adapter(checkpoint, config, 3, seed=5)\n"
        "digest = hashlib.sha256()\n"
        "for name in sorted(tensors): digest.update(name.encode() + tensors[name].tobytes())\n"
        "found = digest.hexdigest()\n"
    )
    here: dict[str, str] = {}
    exec(code, here)
    there = subprocess.run([sys.executable, "-c", code + "print(found)"], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here["found"]


def test_first_values_are_lora_s_own(make_folder: MakeFolder) -> None:
    checkpoint = Checkpoint.open(str(make_folder("gpt2", "classification")))
    config = adapter.adapter_config(checkpoint, LoraSpec(rank=4), "classification", LABELS)
    one, two = (adapter.initial_adapter(checkpoint, config, LABELS, seed) for seed in (0, 1))
    for name, array in one.items():
        assert array.dtype == np.float32
        if ".lora_B." in name:
            assert not array.any()
        elif ".lora_A." in name:
            assert 0.8 * 0.25 < np.abs(array).max() <= 0.25  # 1/√16
            assert not np.array_equal(array, two[name])
        else:
            stored = checkpoint.read([name.removeprefix("base_model.model.")])
            assert np.array_equal(array, next(iter(stored.values())).numpy())


def test_block_index_reads_names_only() -> None:
    bert, gpt2 = FAMILIES["bert"], FAMILIES["gpt2"]
    assert block_index("base_model.model.bert.encoder.layer.11.output.dense.weight", bert) == 11
    assert block_index("bert.encoder.layer.0.attention.self.query.lora_A.weight", bert) == 0
    assert block_index("base_model.model.classifier.weight", bert) is None
    assert block_index("base_model.model.transformer.h.3.attn.c_attn.lora_B.weight", gpt2) == 3
    assert block_index("transformer.ln_f.weight", gpt2) is None


def test_removing_an_adapter_frees_it_and_leaves_the_others_and_their_pending_backwards(
    make_folder: MakeFolder,
) -> None:
    checkpoint = Checkpoint.open(str(make_folder("bert", "classification")))
    config, tensors = full_adapter(checkpoint, "classification")
    edge = edge_of(checkpoint)
    for name in ("a", "b"):
        adapter.attach(edge, config, name)
        adapter.write(edge, tensors, name)
    trunk_step(edge, "a", WIDE, 1).backward()
    want = grads(edge, "a", WIDE)
    for parameter in adapter.parameters(edge, "a"):
        parameter.grad = None
    trunk_step(edge, "b", WIDE, 2).backward()
    pending = trunk_step(edge, "a", WIDE, 1)
    gone = [weakref.ref(parameter) for parameter in adapter.parameters(edge, "b")]
    gone += [weakref.ref(parameter.grad) for parameter in adapter.parameters(edge, "b", WIDE)]
    count = len(list(edge.model.parameters()))
    adapter.remove(edge, "b")
    gc.collect()
    assert gone and not any(ref() is not None for ref in gone)
    assert len(list(edge.model.parameters())) == count - len(adapter.names(edge))
    pending.backward()
    for got, expected in zip(grads(edge, "a", WIDE), want, strict=True):
        assert np.array_equal(got, expected)
    with pytest.raises(NotFoundError, match="'b'"):
        adapter.remove(edge, "b")
    adapter.attach(edge, config, "b")  # the name is free again
    adapter.write(edge, tensors, "b")
    assert torch.equal(trunk_step(edge, "b", WIDE, 1), trunk_step(edge, "a", WIDE, 1))
    for name in ("a", "b"):
        adapter.remove(edge, name)
    bare = edge_of(checkpoint)
    assert torch.equal(edge.trunk(torch.ones(2, 5, 16), MASK, WIDE), bare.trunk(torch.ones(2, 5, 16), MASK, WIDE))
    adapter.attach(edge, config, "c")
    adapter.write(edge, tensors, "c")
    trunk_step(edge, "c", WIDE, 1).backward()
    for got, expected in zip(grads(edge, "c", WIDE), want, strict=True):
        assert np.array_equal(got, expected)
