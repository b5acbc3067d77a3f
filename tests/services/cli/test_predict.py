"""Predictions are those of plain PEFT, in whatever order and number texts come."""

import json

import numpy as np
import pytest
import torch

from elsa.errors import CheckpointError, DataError
from elsa.model import adapter as adapters
from elsa.model.export import export
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.spec import LoraSpec
from services.cli.predictor import Predictor

LABELS = ("red", "green", "blue")
TEXTS = ["w1 w2 w3 w4 w5", "w9", "w3 w3", "w20 w21 w22"]
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def adapter_folder(folder, base, task, labels=()):
    checkpoint = Checkpoint.open(str(base))
    config = adapters.adapter_config(checkpoint, LoraSpec(rank=2), task, len(labels))
    tensors = adapters.initial_adapter(checkpoint, config, len(labels), 3)
    draw = np.random.default_rng(3)
    for name in sorted(tensors):
        if ".lora_B." in name:  # zero at first, which would hide an adapter that is not loaded
            tensors[name] = draw.normal(0, 0.3, tensors[name].shape).astype(np.float32)
    export(folder, tensors, config, labels=labels, max_tokens=8)
    return checkpoint, config, tensors


@pytest.fixture
def classifier(tmp_path, tiny_bert):
    return tmp_path / "adapter", adapter_folder(tmp_path / "adapter", tiny_bert, "classification", LABELS)


def test_probabilities_are_those_of_the_whole_segment(classifier):
    folder, (checkpoint, config, tensors) = classifier
    segment = Segment.whole(checkpoint, task="classification", num_labels=len(LABELS))
    adapters.attach(segment, config)
    adapters.write(segment, tensors)
    found = Predictor.load(folder).probabilities(TEXTS)
    for text, shares in zip(TEXTS, found, strict=True):
        batch = checkpoint.tokenizer()([text], return_tensors="pt", truncation=True, max_length=8)
        with torch.no_grad():
            want = segment.logits(batch["input_ids"], batch["attention_mask"]).softmax(-1)[0].numpy()
        np.testing.assert_allclose(shares, want, atol=1e-6)


def test_order_of_texts_and_workers_are_irrelevant(classifier):
    predictor = Predictor.load(classifier[0])
    many = TEXTS * 40  # more than one batch
    found = predictor.probabilities(many, workers=2)
    np.testing.assert_allclose(found, np.tile(predictor.probabilities(TEXTS), (40, 1)), atol=1e-6)


def test_command_prints_label_and_probability_as_table_or_json(elsa, classifier):
    code, out, err = elsa("predict", classifier[0], *TEXTS, "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [row["text"] for row in rows] == TEXTS
    for row in rows:
        assert set(row["probabilities"]) == set(LABELS)
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert row["probability"] == max(row["probabilities"].values()) == row["probabilities"][row["label"]]
    code, out, _ = elsa("predict", classifier[0], "w9")
    assert code == 0
    assert f"{rows[1]['label']}" in out
    assert f"{rows[1]['probability']:.3f}" in out


def test_labels_and_texts_that_look_like_markup_are_shown_as_they_are(elsa, tmp_path, tiny_bert):
    adapter_folder(tmp_path / "adapter", tiny_bert, "classification", ("[/a]", "[/b]", "[/c]"))
    code, out, err = elsa("predict", tmp_path / "adapter", "w1 [/data]")
    assert (code, err) == (0, "")
    assert "w1 [/data]" in out
    assert any(f"[/{label}]" in out for label in "abc")


def test_another_base_model_is_refused(classifier, refused, make_folder):
    line = refused("predict", classifier[0], "w1", "--model", make_folder("bert", "bare"))
    assert "does not fit the base model" in line
    assert "no model folder at ./gone" in refused("predict", classifier[0], "w1", "--model", "./gone")


def test_blank_text_and_wrong_task_are_refused(classifier):
    predictor = Predictor.load(classifier[0])
    with pytest.raises(DataError, match="blank"):
        predictor.probabilities(["w1", " "])
    with pytest.raises(DataError, match="not for causal-lm"):
        predictor.continuation("w1", 3)


def test_missing_base_model_hints_at_the_flag(tmp_path, classifier):
    path = classifier[0] / "adapter_config.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "base_model_name_or_path": "./gone"}))
    with pytest.raises(CheckpointError, match=r"no model folder at \./gone.*--model"):
        Predictor.load(classifier[0])


def test_language_model_continues_a_text_greedily(elsa, tmp_path, tiny_bert, make_folder):
    base = make_folder("gpt2", "causal-lm", {"vocab_size": 64, "bos_token_id": 2, "eos_token_id": None})
    Checkpoint.open(str(tiny_bert)).tokenizer().save_pretrained(base)
    adapter_folder(tmp_path / "adapter", base, "causal-lm")
    code, out, err = elsa("predict", tmp_path / "adapter", "w1 w2", "--max-new-tokens", 4, "--json")
    assert (code, err) == (0, "")
    [row] = json.loads(out)
    assert row["text"] == "w1 w2"
    assert 1 <= len(row["continuation"].split()) <= 4
    assert elsa("predict", tmp_path / "adapter", "w1 w2", "--max-new-tokens", 4)[1].startswith("w1 w2")
