"""Weights held in fewer bits: the bytes that they take, what is kept for a backward, how near answers stay."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import (
    BLOCKS,
    DECODERS,
    ENCODERS,
    LABELS,
    MakeFolder,
    batch_of,
    full_adapter,
    gradients_of,
    loss_of,
    split_step,
)
from transformers.pytorch_utils import Conv1D

from elsa.errors import CheckpointError
from elsa.model import adapter, held
from elsa.model.architecture import block_index
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.spec import BaseDtype, LoraSpec, Split, Task

SPLIT = Split(bottom=1, trunk=1, top=1)
CASES: list[tuple[str, Task]] = [(family, "classification") for family in ENCODERS + DECODERS]
CASES += [(family, "causal-lm") for family in DECODERS]
HALVES: tuple[BaseDtype, ...] = ("bfloat16", "int8")
EPSILON = {"bfloat16": 2**-8, "int8": 1 / 254}
"""The largest error of a weight, as a part of the largest of its row."""


def whole_of(folder: Path, task: Task, base: BaseDtype) -> Segment:
    return Segment.whole(Checkpoint.open(str(folder)), task=task, num_labels=LABELS, base=base)


def rows_of(segment: Segment, name: str, parameter: torch.Tensor) -> torch.Tensor:
    """A parameter as (out, in), whichever way the module keeps it."""
    turned = isinstance(segment.model.get_submodule(name.rpartition(".")[0]), Conv1D) and parameter.ndim == 2
    return parameter.t() if turned else parameter


def in_float32(segment: Segment) -> dict[str, torch.Tensor]:
    """The weights that products see, by name."""
    values = {}
    for name, parameter in segment.model.named_parameters():
        scale = getattr(segment.model.get_submodule(name.rpartition(".")[0]), "scale", None)
        values[name] = parameter.float()
        if parameter.dtype is torch.int8:
            values[name] = rows_of(segment, name, rows_of(segment, name, parameter) * scale)
    return values


@pytest.mark.parametrize("base", HALVES)
@pytest.mark.parametrize(("family", "task"), CASES)
def test_held_bytes_are_those_of_the_type(make_folder: MakeFolder, family: str, task: Task, base: BaseDtype) -> None:
    segment, plain = (whole_of(make_folder(family, task), task, one) for one in (base, "float32"))
    config = adapter.adapter_config(Checkpoint.open(str(make_folder(family, task))), LoraSpec(rank=2), task, LABELS)
    trained = tuple(f".{module}." for module in config.modules_to_save)
    got = dict(segment.model.named_parameters())
    want = dict(plain.model.named_parameters())
    assert got.keys() == want.keys() and segment.model.state_dict().keys() == plain.model.state_dict().keys()
    for name, parameter in want.items():
        inside = block_index(name, segment.architecture) is not None
        if parameter.ndim < 2 or any(part in f".{name}" for part in trained):
            assert got[name].dtype == torch.float32, name
            assert torch.equal(got[name], parameter)
        else:
            assert got[name].dtype == (torch.int8 if inside and base == "int8" else torch.bfloat16), name
    scales = [buffer for name, buffer in segment.model.named_buffers() if name.endswith(".scale")]
    assert bool(scales) == (base == "int8")
    total = sum(p.nbytes for p in got.values()) + sum(scale.nbytes for scale in scales)
    assert total < 0.75 * sum(p.nbytes for p in want.values())  # rows of 16 weights: scales are a quarter of them


@pytest.mark.parametrize("base", HALVES)
@pytest.mark.parametrize(("family", "task"), CASES)
def test_a_held_model_is_the_plain_one_of_its_rounded_weights(
    make_folder: MakeFolder, family: str, task: Task, base: BaseDtype
) -> None:
    folder = make_folder(family, task)
    segment, plain = (whole_of(folder, task, one) for one in (base, "float32"))
    batch = batch_of([4, 6], segment.config.pad_token_id, task)
    first = plain.logits(batch.input_ids, batch.attention_mask)
    rounded = in_float32(segment)
    for name, parameter in plain.model.named_parameters():
        error, largest = (rows_of(segment, name, values).abs() for values in (rounded[name] - parameter, parameter))
        assert (error <= EPSILON[base] * largest.amax(dim=-1, keepdim=True) + 1e-7).all(), name
        parameter.data = rounded[name].clone()
    got = segment.logits(batch.input_ids, batch.attention_mask)
    want = plain.logits(batch.input_ids, batch.attention_mask)
    real = slice(None) if task == "classification" else batch.attention_mask.bool()
    assert got.dtype == torch.float32
    torch.testing.assert_close(got[real], want[real], rtol=0, atol=2e-5)
    assert 1e-5 < (got - first)[real].norm() / first[real].norm() < 0.1, "near the model that is not rounded"


@pytest.mark.parametrize("base", HALVES)
@pytest.mark.parametrize(("family", "task"), CASES)
def test_split_step_equals_the_unsplit_one_of_the_same_base(
    make_folder: MakeFolder, family: str, task: Task, base: BaseDtype
) -> None:
    checkpoint = Checkpoint.open(str(make_folder(family, task)))
    config, tensors = full_adapter(checkpoint, task)
    batch = batch_of([7, 7, 7], checkpoint.config(task, LABELS).pad_token_id, task)
    given: dict[str, Any] = {"task": task, "num_labels": LABELS, "base": base}
    whole = Segment.whole(checkpoint, **given)
    client, edge = Segment.client(checkpoint, SPLIT, **given), Segment.edge(checkpoint, range(1, BLOCKS), **given)
    for segment in (whole, client, edge):
        adapter.attach(segment, config)
        adapter.write(segment, tensors)
        assert {p.dtype for p in adapter.parameters(segment)} == {torch.float32}
    logits, loss = split_step(client, edge, SPLIT, batch, task)
    want_logits = whole.logits(batch.input_ids, batch.attention_mask)
    want_loss = loss_of(want_logits, batch, task)
    want_loss.backward()
    assert torch.equal(logits, want_logits) and torch.equal(loss, want_loss)
    got, want = gradients_of(client) | gradients_of(edge, split=SPLIT), gradients_of(whole)
    assert got.keys() == want.keys()
    assert all((got[name] == want[name]).all() and want[name].any() for name in want)


@pytest.mark.parametrize("base", HALVES)
@pytest.mark.parametrize(
    ("family", "task"), [("bert", "classification"), ("gpt2", "causal-lm"), ("llama", "causal-lm")]
)
def test_no_weight_is_kept_for_the_backward_but_as_it_is_held(
    make_folder: MakeFolder, family: str, task: Task, base: BaseDtype
) -> None:
    checkpoint = Checkpoint.open(str(make_folder(family, task)))
    segment = Segment.whole(checkpoint, task=task, num_labels=LABELS, base=base)
    adapter.attach(segment, adapter.adapter_config(checkpoint, LoraSpec(rank=2), task, LABELS))
    held_at = {p.untyped_storage().data_ptr() for p in segment.model.parameters()}
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    batch = batch_of([1], segment.config.pad_token_id, task)  # states are smaller than any weight
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = segment.logits(batch.input_ids, batch.attention_mask)
    least = min(p.numel() for n, p in segment.model.named_parameters() if p.ndim == 2 and p.dtype != torch.float32)
    assert any(tensor.dtype != torch.float32 for tensor in kept)
    new = [tensor for tensor in kept if tensor.untyped_storage().data_ptr() not in held_at]
    assert all(tensor.numel() < least for tensor in new if tensor.is_floating_point())
    logits.sum().backward()
    assert all(p.grad is not None for p in adapter.parameters(segment))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("base", HALVES)
def test_a_tied_head_is_the_embeddings_table_as_it_is_held(
    make_folder: MakeFolder, family: str, base: BaseDtype
) -> None:
    client = Segment.client(
        Checkpoint.open(str(make_folder(family, "causal-lm"))), SPLIT, task="causal-lm", base=base
    )
    table = client.model.get_submodule(client.architecture.embeddings).weight
    assert client.model.lm_head.weight is table and table.dtype == torch.bfloat16


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("piece_bytes", [1, 300, 1 << 24])
def test_pieces_do_not_change_a_product(monkeypatch: pytest.MonkeyPatch, turned: bool, piece_bytes: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(11, 7)
    weight[3] = 0  # a row without a largest magnitude
    monkeypatch.setattr(held, "_PIECE_BYTES", piece_bytes)
    values, scale = held._int8(weight.t().contiguous() if turned else weight, turned=turned)
    rows = values.t() if turned else values
    states = torch.randn(2, 3, 7, requires_grad=True)
    gradient = torch.randn(2, 3, 11)
    want = states @ (rows * scale).t()
    (want_back,) = torch.autograd.grad(want, states, gradient)
    got = held._product(states, rows, scale, None)
    (got_back,) = torch.autograd.grad(got, states, gradient)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    torch.testing.assert_close(got_back, want_back, rtol=0, atol=1e-5)
    assert torch.allclose(rows * scale, weight, atol=float(weight.abs().max()) / 254 + 1e-6)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("base", HALVES)
def test_of_a_held_weight_one_piece_is_float32_at_once_and_always_in_the_same_place(
    monkeypatch: pytest.MonkeyPatch, base: BaseDtype, turned: bool
) -> None:
    monkeypatch.setattr(held, "_PIECE_BYTES", 3 * 4 * 7)
    weight = torch.randn(11, 7)
    scale = None
    if base == "int8":
        weight, scale = held._int8(weight, turned=False)
    rows = (weight.t().contiguous().t() if turned else weight).to(torch.bfloat16 if scale is None else torch.int8)
    pieces = [(part, piece.data_ptr(), piece.clone()) for part, piece in held._pieces(rows, scale)]
    assert len({place for _, place, _ in pieces}) == 1 and len(pieces) == 4
    whole = rows.float() if scale is None else rows * scale
    assert all(torch.equal(piece, whole[part]) for part, _, piece in pieces)


def test_a_bias_is_added_and_learns_as_in_a_plain_product() -> None:
    torch.manual_seed(0)
    states, weight = torch.randn(2, 3, 7, requires_grad=True), torch.randn(11, 7).bfloat16()
    bias, gradient = torch.randn(11, requires_grad=True), torch.randn(2, 3, 11)
    got = held._product(states, weight, None, bias)
    want = states @ weight.float().t() + bias
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    wanted = torch.autograd.grad(want, (states, bias), gradient)
    for one, other in zip(torch.autograd.grad(got, (states, bias), gradient), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_a_client_of_reading_as_float32_is_what_it_was(make_folder: MakeFolder) -> None:
    checkpoint = Checkpoint.open(str(make_folder("bert", "classification")))
    segment = Segment.client(checkpoint, SPLIT, task="classification", num_labels=LABELS)
    stored = checkpoint.read(name for name, _ in segment.model.named_parameters())
    for name, parameter in segment.model.named_parameters():
        assert torch.equal(parameter, stored[name]) and parameter.dtype == torch.float32
    assert not any(isinstance(m, held.HeldLinear | held.HeldEmbedding) for m in segment.model.modules())


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_int8_refuses_values_that_are_not_finite_by_the_tensors_name(make_folder: MakeFolder, wrong: float) -> None:
    model = whole_of(make_folder("bert", "classification"), "classification", "int8").model
    name = "bert.encoder.layer.1.output.dense.weight"
    values = torch.randn(model.get_parameter(name).shape)
    values[3, 1] = wrong
    with pytest.raises(CheckpointError, match=f"tensor {name} has values that are not finite"):
        held.put(model, name, values)


def test_int8_holds_rows_that_are_hardly_above_zero(make_folder: MakeFolder) -> None:
    segment = whole_of(make_folder("bert", "classification"), "classification", "int8")
    name = "bert.encoder.layer.1.output.dense.weight"
    values = torch.randn(segment.model.get_parameter(name).shape)
    values[0], values[1] = 0.0, 1e-44
    held.put(segment.model, name, values)
    got = in_float32(segment)[name]
    assert got.isfinite().all() and not got[0].any() and got[1].abs().max() <= 1e-37
