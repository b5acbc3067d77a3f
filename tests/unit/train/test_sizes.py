"""Laws of a model's sizes as they are counted and measured, against arithmetic and against whole models."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from peak_memory import MIB, Peak, needs_figures
from tiny_models import BLOCKS, DECODERS, ENCODERS, LABELS, VOCABULARY
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from elsa.errors import SplitError
from elsa.model import adapter as adapters
from elsa.model import loading
from elsa.model.cached import CachedCheckpoint
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint, architecture_in
from elsa.plan.shape import ModelShape
from elsa.spec import RunSpec
from elsa.train import sizes
from elsa.train.sizes import model_shape, saved_bytes

CASES = [(family, "classification") for family in (*ENCODERS, *DECODERS)]
CASES += [(family, "causal-lm") for family in DECODERS]
TOKENS = 12
RANK = 2
WIDTH, INNER, HEADS = 16, 24, 2


def run_of(task, **model):
    labels = [f"label-{n}" for n in range(LABELS)] if task == "classification" else []
    return RunSpec.model_validate(
        {
            "model": {"task": task, "max_tokens": TOKENS, **model},
            "data": {"labels": labels},
            "lora": {"rank": RANK},
        }
    )


def shape_of(folder, task, spec=None, **given):
    checkpoint, spec = Checkpoint.open(str(folder)), spec or run_of(task)
    return model_shape(spec, checkpoint, adapters.adapter_config(checkpoint, spec.lora, task, LABELS), **given)


@pytest.mark.parametrize(("family", "task"), CASES)
def test_parts_of_a_model_make_the_whole_and_what_is_tied_counts_once(make_folder, family, task):
    folder = make_folder(family, task)
    auto = AutoModelForSequenceClassification if task == "classification" else AutoModelForCausalLM
    whole = auto.from_pretrained(folder, **({"num_labels": LABELS} if task == "classification" else {}))
    shape, sizes = shape_of(folder, task), [parameter.numel() for parameter in whole.parameters()]
    assert (shape.blocks, shape.width) == (BLOCKS, WIDTH)
    assert BLOCKS * shape.block_weights + shape.embedding_weights + shape.head_weights == sum(sizes)
    assert shape.largest_weights == max(sizes)


@pytest.mark.parametrize(("family", "task"), CASES)
def test_what_is_trained_is_what_an_adapter_of_the_whole_model_trains(make_folder, family, task):
    folder = make_folder(family, task)
    checkpoint, spec = Checkpoint.open(str(folder)), run_of(task)
    config = adapters.adapter_config(checkpoint, spec.lora, task, LABELS)
    tensors = adapters.initial_adapter(checkpoint, config, LABELS, 0)
    shape = shape_of(folder, task)
    assert BLOCKS * shape.block_adapter + shape.head_adapter == sum(values.size for values in tensors.values())


def test_a_bert_has_the_numbers_that_are_counted_by_hand(make_folder):
    """Kept of a block: what enters it, two narrow states of LoRA, query, key, value and attention's result with a
    number a head, a mask over the row, what enters both norms with two numbers each, and what enters the activation.
    Of the head, a row: what enters pooler and classifier, and log-probabilities; the classifier is trained."""
    square = WIDTH * WIDTH + WIDTH
    block = WIDTH + 2 * RANK + 4 * WIDTH + HEADS + TOKENS + 2 * (WIDTH + 2) + INNER
    shape = shape_of(make_folder("bert", "classification"), "classification")
    assert replace(shape, head_activations=0) == ModelShape(
        blocks=BLOCKS,
        width=WIDTH,
        block_weights=4 * square + (WIDTH + 1) * INNER + (INNER + 1) * WIDTH + 4 * WIDTH,
        embedding_weights=(VOCABULARY + 32 + 2 + 2) * WIDTH,
        head_weights=square + (WIDTH + 1) * LABELS,
        largest_weights=VOCABULARY * WIDTH,
        block_adapter=2 * RANK * 2 * WIDTH,
        head_adapter=(WIDTH + 1) * LABELS,
        block_activations=block,
        head_activations=0,
    )
    assert shape.head_activations * TOKENS <= WIDTH + LABELS + TOKENS


def test_a_llama_with_tied_embeddings_has_the_numbers_that_are_counted_by_hand(make_folder):
    """Keys and values have one head of two; norms have no bias and keep one number a token. The head is the
    embeddings' own table; of its vocabulary nothing is kept, and of the final norm what enters it
    and a number a token."""
    keys = WIDTH // HEADS
    shape = shape_of(make_folder("llama", "causal-lm"), "causal-lm")
    weights = 2 * WIDTH * WIDTH + 2 * WIDTH * keys + 3 * WIDTH * INNER + 2 * WIDTH
    assert (shape.block_weights, shape.embedding_weights, shape.head_weights) == (weights, VOCABULARY * WIDTH, WIDTH)
    assert shape.block_adapter == RANK * (2 * WIDTH + WIDTH + keys)
    assert shape.head_adapter == 0
    assert WIDTH + 1 <= shape.head_activations <= WIDTH + 2


def saved_in(folder, task, blocks, rows=3, short=0):
    """Bytes that blocks of a loaded model keep for a backward, shared ones once."""
    spec, checkpoint = run_of(task), Checkpoint.open(str(folder))
    segment = Segment.edge(checkpoint, range(blocks), task=task, num_labels=LABELS)
    adapters.attach(segment, adapters.adapter_config(checkpoint, spec.lora, task, LABELS))
    states = torch.randn(rows, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.ones(rows, TOKENS, dtype=torch.int64)
    mask[-1, TOKENS - short :] = 0
    return saved_bytes(lambda: segment.through(states, mask, range(blocks)), segment.model.parameters())


@pytest.mark.parametrize(("family", "task"), CASES)
def test_each_further_block_keeps_as_much_as_was_measured(make_folder, family, task):
    """But for a few values a block, such as Gemma's weights plus one, which the tokens of one row shared."""
    folder, rows = make_folder(family, task), 3
    measured = 4 * rows * TOKENS * shape_of(folder, task).block_activations
    grown = saved_in(folder, task, 3, rows, short=5) - saved_in(folder, task, 2, rows, short=5)
    assert grown == pytest.approx(measured, rel=0.02)
    assert saved_in(folder, task, 3, rows) - saved_in(folder, task, 2, rows) <= measured


def test_masks_of_rows_that_are_too_long_to_measure_are_reckoned(make_folder, monkeypatch):
    folder, task = make_folder("llama", "causal-lm"), "causal-lm"
    whole = shape_of(folder, task, run_of(task, max_tokens=24))
    monkeypatch.setattr(sizes, "MOST_TOKENS", 12)
    assert shape_of(folder, task, run_of(task, max_tokens=24)).block_activations == whole.block_activations


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("changed", [{"base_dtype": "bfloat16"}, {"base_dtype": "int8"}])
def test_sizes_in_values_are_the_same_whatever_the_base_is_held_in(make_folder, family, changed):
    folder, task = make_folder(family, "classification"), "classification"
    assert shape_of(folder, task, run_of(task, **changed)) == shape_of(folder, task)


def test_activations_are_those_without_checkpointing(make_folder):
    folder, task = make_folder("llama", "causal-lm"), "causal-lm"
    spec = run_of(task)
    training = spec.training.model_copy(update={"checkpointing": True})
    assert shape_of(folder, task, spec.model_copy(update={"training": training})) == shape_of(folder, task)


def test_of_what_is_counted_a_token_only_masks_grow_with_the_row(make_folder):
    folder = make_folder("llama", "causal-lm")
    short, long = (shape_of(folder, "causal-lm", run_of("causal-lm", max_tokens=n)) for n in (8, 24))
    assert long.block_activations - short.block_activations == 24 - 8


def without_weights(folder):
    return CachedCheckpoint(
        source="cached", folder=folder, architecture=architecture_in(folder), files={}, entries={}
    )


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_checkpoint_without_weights_has_the_same_shape(make_folder, tmp_path, family):
    folder, task = make_folder(family, "classification"), "classification"
    shutil.copy(folder / "config.json", tmp_path)
    bare = without_weights(tmp_path)
    spec, whole = run_of(task), Checkpoint.open(str(folder))
    config = adapters.adapter_config(whole, spec.lora, task, LABELS)
    assert model_shape(spec, bare, config) == model_shape(spec, whole, config)


def test_counting_draws_no_random_number_of_the_run(make_folder):
    folder = make_folder("bert", "classification")
    before = torch.random.get_rng_state()
    shape_of(folder, "classification", run_of("classification"))
    assert torch.equal(torch.random.get_rng_state(), before)


class EnoughError(Exception):
    """Raised by a check in place of a refusal."""


@pytest.mark.parametrize(("family", "task"), CASES)
def test_what_is_counted_is_checked_before_a_value_is_there(make_folder, monkeypatch, family, task):
    def check(counted):
        shapes.append(counted)
        raise EnoughError

    folder, shapes = make_folder(family, task), []
    whole = shape_of(folder, task)
    monkeypatch.setattr(sizes, "Sample", None)
    with pytest.raises(EnoughError):
        shape_of(folder, task, check=check)
    assert shapes == [replace(whole, block_activations=0, head_activations=0)]


@pytest.mark.parametrize("task", ["classification", "causal-lm"])
def test_no_tensor_as_large_as_the_vocabulary_is_made(make_folder, monkeypatch, task):
    made, put = [], loading.put
    monkeypatch.setattr(
        loading, "put", lambda model, name, values: (made.append(values.numel()), put(model, name, values))
    )
    folder = make_folder("gpt2", task, {"vocab_size": 50_000})
    shape = shape_of(folder, task)
    assert shape.largest_weights == 50_000 * WIDTH and made and max(made) < 10_000


@needs_figures
def test_a_large_vocabulary_takes_no_memory_to_count(make_folder, tmp_path):
    folder, task = make_folder("llama", "causal-lm"), "causal-lm"
    shape_of(folder, task)  # what is loaded once
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": 2_000_000}
    (tmp_path / "config.json").write_text(json.dumps(config))
    bare, spec = without_weights(tmp_path), run_of(task)
    config = adapters.adapter_config(bare, spec.lora, task)
    with Peak() as peak:
        shape = model_shape(spec, bare, config)
    assert 4 * shape.largest_weights > 120 * MIB > 8 * peak.bytes


def test_a_model_of_one_block_cannot_be_split(make_folder):
    folder = make_folder("llama", "causal-lm", {"num_hidden_layers": 1})
    with pytest.raises(SplitError, match="at least 1 block"):
        shape_of(folder, "causal-lm")
