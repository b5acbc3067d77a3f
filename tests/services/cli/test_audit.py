"""The command audits a user's own model and rows, and refuses in one line what it cannot."""

import json

import numpy as np
import pytest
import yaml

from elsa.model.weights import Checkpoint

WORDS = 30
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def rows(tmp_path):
    """A file of rows whose label is told by their words."""
    draw = np.random.default_rng(0)
    file = tmp_path / "rows.jsonl"
    lines = []
    for _ in range(160):
        words = draw.integers(0, WORDS, 8)
        label = "low" if words.mean() < WORDS / 2 else "high"
        lines.append(json.dumps({"text": " ".join(f"w{word}" for word in words), "label": label}))
    file.write_text("\n".join(lines))
    return file


@pytest.fixture
def spec(tmp_path, tiny_bert):
    """A run's specification on the tiny model."""
    file = tmp_path / "run.yaml"
    raw = {
        "model": {"source": str(tiny_bert), "max_tokens": 16},
        "data": {"labels": ["low", "high"]},
        "training": {"batch": 8},
    }
    file.write_text(yaml.safe_dump(raw))
    return file


def settings_of(tmp_path, *settings):
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump({"settings": list(settings)}))
    return file


def test_every_setting_is_trained_and_attacked_and_written(elsa, tmp_path, spec, rows):
    file = settings_of(
        tmp_path,
        {"name": "turned", "privacy": {"ssop": {"rank": 4, "edge": "blind"}}},
        {"name": "keyed", "privacy": {"ssop": {"rank": 4, "edge": "keyed", "renew": "step"}}},
        {"name": "blurred", "privacy": {"noise": {"clip": 1.0, "multiplier": 5.0}}},
    )
    given = ("--settings", file, "--rows", 20, "--steps", 3, "--quick")
    code, out, err = elsa("audit", spec, "--data", rows, *given)
    assert (code, err.strip()) == (0, ""), err
    assert "epsilon" in out
    raw = json.loads((tmp_path / "here" / "elsa-audit" / "audit.json").read_text())
    found = {row["setting"]: row for row in raw["settings"]}
    assert list(found) == ["unprotected", "turned", "keyed", "blurred"]
    plain, turned, keyed, blurred = found.values()
    assert plain["strongest"]["top1"] > 0.85
    assert {row["attack"].split()[0] for row in turned["tokens"]} == {"A0", "A1", "A2", "A3", "A4", "A5", "floor"}
    assert {row["attack"].split()[0] for row in keyed["tokens"]} == {"A0", "A4", "A5", "floor"}
    assert keyed["strongest"]["top1"] == pytest.approx(plain["strongest"]["top1"], abs=0.05)
    assert blurred["strongest"]["top1"] < 0.5
    assert keyed["accuracy"] == pytest.approx(plain["accuracy"])  # keyed training is exact
    assert all(len(row["labels"]) == 3 and row["up_bytes"] > 0 < row["down_bytes"] for row in found.values())
    assert (tmp_path / "here" / "elsa-audit" / "audit.png").is_file()


def test_a_language_model_is_audited_without_labels(elsa, tmp_path, tiny_bert, make_folder, rows):
    base = make_folder("gpt2", "causal-lm", {"vocab_size": 64, "bos_token_id": 2, "eos_token_id": None})
    Checkpoint.open(str(tiny_bert)).tokenizer().save_pretrained(base)
    file = tmp_path / "lm.yaml"
    file.write_text(yaml.safe_dump({"model": {"source": str(base), "task": "causal-lm", "max_tokens": 16}}))
    settings = settings_of(tmp_path, {"name": "coded", "preset": "default"})
    given = ("--settings", settings, "--rows", 20, "--steps", 3, "--quick", "--output", "lm")
    code, _, err = elsa("audit", file, "--data", rows, *given)
    assert (code, err.strip()) == (0, ""), err
    found = json.loads((tmp_path / "here" / "lm" / "audit.json").read_text())["settings"]
    assert [row["setting"] for row in found] == ["unprotected", "coded"]
    assert all(row["labels"] == [] and row["strongest"]["top1"] > 0.85 for row in found)


def test_it_stops_where_the_attacks_do_not_succeed_unprotected(refused, monkeypatch, spec, rows):
    from elsa.privacy.audit import audit

    monkeypatch.setattr(audit, "SUCCEEDS", 1.01)
    line = refused("audit", spec, "--data", rows, "--rows", 20, "--quick")
    assert "figures for protected settings would mean nothing" in line


def test_what_cannot_be_audited_is_refused_with_a_remedy(refused, tmp_path, spec, rows):
    assert "no such file" in refused("audit", spec, "--data", "gone.jsonl")
    assert "gone.yaml: cannot be read" in refused("audit", "gone.yaml", "--data", rows)
    assert "give more rows with --data" in refused("audit", spec, "--data", rows, "--rows", 100)
    file = settings_of(tmp_path, {"name": "deep", "bottom": 9})
    line = refused("audit", spec, "--data", rows, "--rows", 20, "--settings", file)
    assert "bottom 9" in line
    bare = tmp_path / "bare.csv"
    bare.write_text("text,class\nw1,a\nw2,b\n")
    assert "no column 'label'" in refused("audit", "--data", bare)
