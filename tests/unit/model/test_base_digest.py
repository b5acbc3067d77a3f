"""The digest of a base is of what a run computes with: of nothing about its files, and of all that differs widely."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_models import FIELDS, LABELS
from transformers import AutoConfig, AutoModelForSequenceClassification

from elsa.model.digest import RUN, RUNS, base_digest
from elsa.model.raw import raw_tensors
from elsa.model.weights import Checkpoint

TASK = "classification"
BASES = ("float32", "bfloat16", "int8")


def digest(folder, base="float32", task=TASK, labels=LABELS):
    return base_digest(Checkpoint.open(str(folder)), base, task, labels)


def altered(folder, to, alter):
    """A copy of a model's folder with other tensors."""
    shutil.copytree(folder, to)
    tensors = load_file(to / "model.safetensors")
    save_file(alter(tensors), to / "model.safetensors", {"format": "pt"})
    return to


@pytest.mark.parametrize("family", FIELDS)
def test_shards_and_one_file_are_one_base(make_folder, family):
    whole, shards = (make_folder(family, TASK, **save) for save in ({}, {"max_shard_size": "20KB"}))
    assert not (shards / "model.safetensors").exists()
    for base in BASES:
        assert digest(whole, base) == digest(shards, base) != ""


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_the_prefix_of_a_bare_model_and_a_head_that_is_not_used_say_nothing(make_folder, tmp_path, family):
    task = make_folder(family, TASK)
    bare = tmp_path / "bare"
    backbone = Checkpoint.open(str(task)).architecture.backbone + "."

    def strip(tensors):
        return {name.removeprefix(backbone): value for name, value in tensors.items() if name.startswith(backbone)}

    altered(task, bare, strip)
    assert digest(task, labels=LABELS + 1) == digest(bare, labels=LABELS + 1)
    assert digest(task) != digest(bare), "a head that the one has is drawn anew by the other"


def test_values_that_are_the_same_once_held_are_one_base(make_folder, tmp_path):
    stored = make_folder("bert", TASK)
    half = altered(stored, tmp_path / "half", lambda t: {name: value.bfloat16() for name, value in t.items()})
    back = altered(half, tmp_path / "back", lambda t: {name: value.float() for name, value in t.items()})
    assert digest(stored, "bfloat16") == digest(half, "bfloat16")
    assert digest(half) == digest(back) != digest(stored)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), scale=st.floats(1e-3, 10))
def test_a_tensor_that_was_trained_on_makes_another_base(make_folder, tmp_path_factory, data, scale):
    folder = make_folder("bert", TASK)
    names = sorted(load_file(folder / "model.safetensors"))
    name = data.draw(st.sampled_from(names))

    def tune(tensors):
        tensors[name] = tensors[name] + scale
        return tensors

    tuned = altered(folder, tmp_path_factory.mktemp("tuned") / "model", tune)
    assert digest(tuned) != digest(folder)


def test_every_value_of_a_small_tensor_counts_and_the_ends_of_a_large_one(make_folder, tmp_path):
    fields = {"vocab_size": 400}
    folder = make_folder("bert", TASK, fields)
    stored = load_file(folder / "model.safetensors")
    large = "bert.embeddings.word_embeddings.weight"
    small = "bert.encoder.layer.0.attention.self.query.bias"
    assert stored[large].numel() > RUNS * RUN >= stored[small].numel()
    places = [(small, index) for index in range(stored[small].numel())] + [(large, 0), (large, -1)]
    for number, (name, index) in enumerate(places):

        def alter(tensors, name=name, index=index):
            tensors[name].view(-1)[index] += 1
            return tensors

        assert digest(altered(folder, tmp_path / str(number), alter)) != digest(folder)


@pytest.mark.parametrize(
    ("field", "value"), [("num_attention_heads", 1), ("layer_norm_eps", 1e-3), ("hidden_act", "relu")]
)
def test_arithmetic_that_no_shape_tells_makes_another_base(make_folder, tmp_path, field, value):
    folder = make_folder("bert", TASK)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    config = json.loads((folder / "config.json").read_text())
    assert config[field] != value
    (other / "config.json").write_text(json.dumps({**config, field: value, "architectures": [], "note": 1}))
    assert digest(other) != digest(folder)
    (other / "config.json").write_text(json.dumps({**config, "architectures": [], "transformers_version": "1"}))
    assert digest(other) == digest(folder)


@pytest.mark.parametrize("part", ["name", "shape"])
def test_the_names_and_shapes_of_tensors_count_whatever_they_hold(make_folder, monkeypatch, part):
    def turned(checkpoint, names):
        first, *others = found = raw_tensors(checkpoint, names)
        other = {"name": replace(first, name="other"), "shape": replace(first, shape=(*first.shape, 1))}
        return [other[part], *others] if turning else found

    folder, turning = make_folder("bert", TASK), False
    monkeypatch.setattr("elsa.model.digest.raw_tensors", turned)
    plain, turning = digest(folder), True
    assert digest(folder) != plain


COMPUTING = [
    ("bert", {"hidden_act": "relu"}),
    ("roberta", {"layer_norm_eps": 1e-2}),
    ("distilbert", {"activation": "relu"}),
    ("gpt2", {"scale_attn_weights": False}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ("gpt2", {"activation_function": "relu"}),
    ("llama", {"rms_norm_eps": 1e-2}),
    ("mistral", {"sliding_window": 2}),
    ("qwen2", {"max_window_layers": 0}),
    ("qwen2", {"use_sliding_window": False}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": 1}),
    ("gemma", {"use_bidirectional_attention": True}),
    ("gemma", {"hidden_act": "relu"}),
]
"""Of each family what makes the same weights compute otherwise."""


def logits(folder):
    ids = torch.arange(3, 19)[None]
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.mark.parametrize(("family", "fields"), COMPUTING)
def test_weights_that_compute_otherwise_are_another_base(make_folder, family, fields):
    plain, other = make_folder(family, TASK), make_folder(family, TASK, fields)
    assert not torch.equal(logits(plain), logits(other)), "the field does nothing: take another"
    assert digest(plain) != digest(other)


def configured(folder, to, alter):
    """A copy of a model's folder with another configuration."""
    shutil.copytree(folder, to)
    (to / "config.json").write_text(json.dumps(alter(json.loads((folder / "config.json").read_text()))))
    return to


@pytest.mark.parametrize("family", FIELDS)
def test_another_padding_token_counts_where_positions_begin_behind_it(make_folder, tmp_path, family):
    folder = make_folder(family, TASK)
    other = configured(folder, tmp_path / "other", lambda config: {**config, "pad_token_id": 5})
    assert (digest(other) == digest(folder)) == (family != "roberta")


@pytest.mark.parametrize("family", FIELDS)
def test_what_copies_of_one_model_say_of_themselves_makes_no_other_base(make_folder, tmp_path, family):
    notes = {
        "architectures": ["Other"],
        "dtype": "bfloat16",
        "transformers_version": "5.0.0",
        "_name_or_path": "elsewhere",
        "_attn_implementation_autoset": True,
        "id2label": {"0": "a", "1": "b", "2": "c"},
        "label2id": {"a": 0, "b": 1, "c": 2},
        "eos_token_id": 7,
        "use_cache": False,
    }
    folder = make_folder(family, TASK)
    assert digest(configured(folder, tmp_path / "other", lambda config: {**config, **notes})) == digest(folder)


@pytest.mark.parametrize("family", FIELDS)
def test_what_a_family_has_anyway_need_not_be_said(make_folder, tmp_path, family):
    folder = make_folder(family, TASK)
    usual = AutoConfig.for_model(family).to_dict()

    def shortened(config):
        said = {name: value for name, value in config.items() if name not in usual or value != usual[name]}
        return {**said, "model_type": family}

    assert digest(configured(folder, tmp_path / "short", shortened)) == digest(folder)


def test_a_field_that_is_not_known_makes_another_base(make_folder, tmp_path):
    folder = make_folder("llama", "causal-lm")
    other = configured(folder, tmp_path / "other", lambda config: {**config, "logit_softcapping": 30.0})
    assert digest(folder, task="causal-lm") != digest(other, task="causal-lm")


def test_rotary_angles_make_another_base(make_folder):
    plain = make_folder("llama", "causal-lm")
    turned = make_folder("llama", "causal-lm", {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}})
    assert digest(plain, task="causal-lm") != digest(turned, task="causal-lm")


def test_a_part_of_a_model_is_not_compared_and_the_log_says_so(make_folder, tmp_path, caplog):
    def cut(tensors):
        return {name: value for name, value in tensors.items() if ".layer.1." not in name}

    assert digest(altered(make_folder("bert", TASK), tmp_path / "part", cut)) == ""
    assert "not compared" in caplog.text


def test_no_more_than_a_sample_is_read(make_folder, monkeypatch):
    folder, read = make_folder("bert", TASK, {"vocab_size": 4000}), []
    from elsa.model.raw import Place

    pieces = Place.pieces

    def counted(place, offset, piece_bytes):
        read.append(place.size_bytes)
        return pieces(place, offset, piece_bytes)

    monkeypatch.setattr(Place, "pieces", counted)
    digest(folder)
    tensors = load_file(folder / "model.safetensors")
    assert sum(read) <= sum(min(t.numel(), RUNS * RUN) * 4 for t in tensors.values())
    assert sum(read) < torch.cat([t.view(-1) for t in tensors.values()]).numel() * 4
