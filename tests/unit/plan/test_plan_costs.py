"""Laws of what the planner reckons with: bytes on the wire, seconds of a step, memory."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned_fleets import client_of, model_of, workload_of

from elsa.codecs import CodecsSpec, parse_codec
from elsa.errors import SpecError
from elsa.plan.cost import Crew, step_seconds
from elsa.plan.memory import client_needs, edge_needs
from elsa.plan.shape import Workload
from elsa.plan.traffic import bytes_per_token, traffic_of
from elsa.spec import RunSpec
from elsa.wire.codec.registry import codec_of

LAW = settings(deadline=None, max_examples=100)
NARROWING = ("subspace(ratio=3.7)", "subspace(k=6)", "sketch(rows=3, ratio=2.5)", "sketch(rows=2, decode=mmse)")
TOPK = ("topk(fraction=0.02)", "topk(fraction=0.3)", "topk(fraction=1.0)")
ROUNDING = ("bf16", "int8", "int4")
EXPRESSIONS = st.tuples(
    st.sampled_from([*NARROWING, ""]),
    st.lists(st.sampled_from(TOPK), max_size=2),
    st.sampled_from([*ROUNDING, ""]),
).map(lambda parts: " | ".join(filter(None, [parts[0], *parts[1], parts[2]])))
FLAGS = st.booleans()
COUNTS = st.integers(1, 5)


@st.composite
def workloads(draw):
    return workload_of(
        rows=draw(st.integers(1, 9)),
        micro_batches=draw(st.integers(1, 4)),
        window=draw(st.integers(1, 4)),
        trains_bottom=draw(FLAGS),
        checkpointing=draw(FLAGS),
        base=draw(st.sampled_from(["float32", "bfloat16", "int8"])),
    )


def codec_bytes(text, width, tokens):
    return sum(layout.payload_bytes for layout in codec_of(parse_codec(text), width).layout(tokens))


@LAW
@given(EXPRESSIONS, st.integers(4, 65).map(lambda half: 2 * half), st.integers(1, 50))
def test_bytes_are_the_codecs_own_encoded_length(text, width, tokens):
    try:
        expected = codec_bytes(text, width, tokens)
    except SpecError:
        with pytest.raises(SpecError):
            bytes_per_token(parse_codec(text), width)
    else:
        assert tokens * bytes_per_token(parse_codec(text), width) == expected


@pytest.mark.parametrize("bottom_adapters", [True, False])
def test_bytes_of_a_step_follow_each_tensors_codec_and_what_is_not_sent_counts_nothing(bottom_adapters):
    codecs = {"h1": "int8", "h2": "bf16", "dh2": "subspace(k=8) | int4", "dh1": "topk(fraction=0.25) | bf16"}
    spec = RunSpec.model_validate(
        {
            "codecs": codecs,
            "lora": {"bottom_adapters": bottom_adapters},
            "data": {"labels": ["a", "b"]},
            "training": {"batch": 12},
        }
    )
    work = Workload.of(spec, width=32, row_tokens=5)
    sizes = {name: codec_bytes(text, 32, 12 * 5) for name, text in codecs.items()}
    assert work.up_bytes == sizes["h1"] + sizes["dh2"]
    assert work.down_bytes == sizes["h2"] + (sizes["dh1"] if bottom_adapters else 0)


def test_a_codec_that_does_not_fit_the_width_is_named():
    with pytest.raises(SpecError, match=r"codecs\.h2.*int4"):
        traffic_of(CodecsSpec(h2=parse_codec("int4")), 33)


def seconds(client, workload, bottom=2, trunk=3, top=1, trunk_block_s=0.25, trunk_step_s=0.0):
    crew = Crew.of([client], "edge-1")
    blocks = {name: np.array([[n]]) for name, n in (("bottom", bottom), ("trunk", trunk), ("top", top))}
    return step_seconds(crew, workload, trunk_block_s, trunk_step_s, **blocks)


def test_a_step_is_the_sum_of_its_terms():
    """2 x 125 ms of round trips; 32 tokens of 64 bytes up at 2^14 bytes a second and down at twice that."""
    made = seconds(client_of(codec_s=0.125), workload_of(), trunk_step_s=0.5)
    phases = {name: getattr(made, name).item() for name in ("bottom", "network", "trunk", "top", "total")}
    network = 0.25 + 2048 / 2**14 + 2048 / 2**15
    assert phases == {
        "bottom": 0.25 + 2 * 1.0,
        "network": network + 0.125,
        "trunk": 3 * 0.25 + 0.5,
        "top": 1.0 + 0.5,
        "total": 2.25 + network + 0.125 + 1.25 + 1.5,
    }


def test_micro_batches_cost_latency_only_and_an_untrained_bottom_its_forward_only():
    whole, parts = (seconds(client_of(), workload_of(micro_batches=n)).network.item() for n in (1, 4))
    assert parts - whole == 3 * 0.25
    untrained = seconds(client_of(), workload_of(trains_bottom=False))
    assert untrained.bottom.item() == 0.25 + 2 * 0.5
    assert untrained.top.item() == seconds(client_of(), workload_of()).top.item()


def test_with_checkpointing_a_forward_is_a_third_of_a_block():
    """Of forward, forward again and backward."""
    untrained = seconds(client_of(), workload_of(trains_bottom=False, checkpointing=True))
    assert untrained.bottom.item() == pytest.approx(0.25 + 2 / 3)
    assert untrained.trunk.item() == seconds(client_of(), workload_of()).trunk.item()


@LAW
@given(workloads(), COUNTS, COUNTS)
def test_memory_grows_with_every_block_and_by_what_a_block_takes(workload, bottom, top):
    needs = client_needs(model_of(), workload)
    assert needs.of(bottom + 1, top).total - needs.of(bottom, top).total == needs.bottom_block.total > 0
    assert needs.of(bottom, top + 1).total - needs.of(bottom, top).total == needs.top_block.total > 0
    at_edge = edge_needs(model_of(), workload, 4)
    assert at_edge.of(2, bottom + 1).total > at_edge.of(2, bottom).total
    assert at_edge.of(3, bottom).total > at_edge.of(2, bottom).total
    assert edge_needs(model_of(), workload, 5).base.total > at_edge.base.total


@LAW
@given(workloads())
def test_memory_is_the_sum_of_its_kinds(workload):
    need = client_needs(model_of(), workload).of(3, 2)
    kinds = ("weights", "adapter", "gradients", "optimizer", "activations", "loading")
    assert need.total == sum(getattr(need, kind) for kind in kinds)


def test_a_client_holds_what_it_owns_and_trains():
    model, size = model_of(), 4
    need = client_needs(model, workload_of()).of(2, 1)
    assert need.weights == size * (3 * model.block_weights + model.embedding_weights + model.head_weights)
    assert (
        need.adapter == need.gradients == need.optimizer // 2 == size * (3 * model.block_adapter + model.head_adapter)
    )
    assert need.loading == size * model.largest_weights
    tokens = 4 * 16
    running = 4 * model.block_activations
    kept = 3 * model.block_activations + running + 4 * model.head_activations
    assert need.activations == size * tokens * (kept + 4 * model.width)


@pytest.mark.parametrize(("vocabulary", "rows"), [(40, 4), (49152, 8), (49152, 800), (10**7, 8)])
def test_a_language_model_takes_a_bounded_part_of_its_logits_whatever_the_batch(vocabulary, rows):
    model, work = model_of(embedding_weights=8 * vocabulary), workload_of(rows=rows)
    there, without = (client_needs(model, replace(work, task=task)).ends for task in ("causal-lm", "classification"))
    logits = 4 * vocabulary * work.part_tokens
    assert there.activations - without.activations <= 8 * min(logits, max(2**23, 4 * vocabulary))
    assert there.activations - without.activations >= 2 * min(logits, 2**23)
    assert replace(there, activations=0) == replace(without, activations=0)


def test_a_bottom_that_is_not_trained_keeps_nothing_for_a_backward():
    model = model_of()
    trained, frozen = (client_needs(model, workload_of(trains_bottom=flag)).bottom_block for flag in (True, False))
    assert (frozen.gradients, frozen.optimizer, frozen.activations) == (0, 0, 0)
    assert (frozen.weights, frozen.adapter) == (trained.weights, trained.adapter)


def test_only_the_bottom_holds_all_micro_batches_in_flight():
    model, rows = model_of(), {"rows": 8, "micro_batches": 4}
    one, two, six = (client_needs(model, workload_of(**rows, window=window)) for window in (1, 2, 6))
    assert two.bottom_block.activations == 2 * one.bottom_block.activations
    assert six.bottom_block.activations == 4 * one.bottom_block.activations
    assert one.top_block == two.top_block == six.top_block


def test_memory_is_for_the_largest_micro_batch_with_its_padding():
    work = workload_of(rows=5, micro_batches=2, longest_row=16)
    assert (work.part_tokens, work.open_tokens) == (3 * 16, 2 * 3 * 16)


def test_checkpointing_keeps_one_block_whole_and_of_the_others_the_input():
    model, work = model_of(), workload_of()
    every, only = client_needs(model, work), client_needs(model, replace(work, checkpointing=True))
    assert only.top_block.activations * model.block_activations == every.top_block.activations * model.width
    whole = every.top_block.activations
    assert only.ends.activations - every.ends.activations == whole
    kept, again = (edge_needs(model, one, 4).base.activations for one in (work, replace(work, checkpointing=True)))
    assert (kept, again) == (4 * whole, 5 * whole)


@pytest.mark.parametrize(
    ("base", "block_bytes", "end_bytes"), [("float32", 4, 4), ("bfloat16", 2, 2), ("int8", 1, 2)]
)
def test_the_type_of_the_base_changes_frozen_weights_and_nothing_else(base, block_bytes, end_bytes):
    model = model_of()
    whole, asked = (client_needs(model, workload_of(base=base)).of(3, 2) for base in ("float32", base))
    ends = model.embedding_weights + model.head_weights
    assert asked.weights == block_bytes * 5 * model.block_weights + end_bytes * ends
    assert replace(asked, weights=0) == replace(whole, weights=0)
    at_edge = edge_needs(model, workload_of(base=base), 4)
    assert at_edge.base.weights == block_bytes * 4 * model.block_weights
    assert replace(at_edge.base, weights=0) == replace(edge_needs(model, workload_of(), 4).base, weights=0)


def test_a_workload_is_what_the_specification_says():
    raw = {
        "model": {"base_dtype": "int8", "max_tokens": 77},
        "data": {"labels": ["a", "b"]},
        "training": {"batch": 12, "micro_batches": 3, "window": 1, "checkpointing": True},
        "lora": {"bottom_adapters": False},
    }
    work = Workload.of(RunSpec.model_validate(raw), width=32, row_tokens=5.5)
    assert (work.base, work.checkpointing, work.trains_bottom) == ("int8", True, False)
    assert (work.rows, work.micro_batches, work.window, work.row_tokens, work.longest_row) == (12, 3, 1, 5.5, 77)


def test_an_edge_holds_its_base_once_for_all_sessions():
    model = model_of()
    needs = edge_needs(model, workload_of(), 4)
    one, two = needs.of(1, 3), needs.of(2, 6)
    assert one.weights == two.weights == 4 * 4 * model.block_weights
    slot = 4 * 4 * model.block_adapter
    assert (one.adapter, two.adapter) == (2 * slot, 3 * slot)
    assert (one.gradients, two.gradients) == (3 * 4 * model.block_adapter, 6 * 4 * model.block_adapter)
    assert two.optimizer == 2 * two.gradients


@pytest.mark.parametrize("figures", [{"blocks": 1}, {"width": -1}, {"block_weights": 2**60}])
def test_a_model_that_cannot_be_is_refused(figures):
    with pytest.raises(SpecError, match="model: "):
        model_of(**figures)


@pytest.mark.parametrize("figures", [{"rows": 0}, {"row_tokens": float("nan")}, {"window": -1}])
def test_a_workload_that_cannot_be_is_refused(figures):
    with pytest.raises(SpecError, match=f"workload: {next(iter(figures))} is"):
        workload_of(**figures)


@LAW
@given(workloads(), st.integers(0, 10**9))
def test_blocks_within_a_memory_fit_wherever_they_stand_and_one_more_may_not(workload, memory_bytes):
    needs = client_needs(model_of(), workload)
    count = needs.blocks_within(memory_bytes)
    if count:
        assert max(needs.of(count, 0).total, needs.of(0, count).total) <= memory_bytes
    assert max(needs.of(count + 1, 0).total, needs.of(0, count + 1).total) > memory_bytes
