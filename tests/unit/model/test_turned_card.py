"""What an adapter folder says of itself where its trunk was trained on turned states."""

import json

import numpy as np
import pytest

from elsa.model.adapter_config import AdapterConfig
from elsa.model.export import export, load_folder

CONFIG = AdapterConfig(
    rank=2,
    alpha=4.0,
    targets=("query", "value"),
    modules_to_save=("classifier",),
    task="classification",
    base="minilm",
    transposed=False,
)
TENSORS = {"base_model.model.a.lora_A.weight": np.ones((2, 3), np.float32)}


def card_of(folder, turned):
    export(folder, TENSORS, CONFIG, labels=("a", "b"), max_tokens=16, turned=turned)
    assert load_folder(folder).turned == turned
    return (folder / "README.md").read_text()


@pytest.mark.parametrize(("turned", "first"), [("run", False), ("client", True)])
def test_the_card_of_a_blind_run_says_that_plain_peft_is_of_no_use(tmp_path, turned, first):
    card = card_of(tmp_path / "adapter", turned)
    assert "Not for use by itself" in card and "wrong coordinates" in card and "through the split" in card
    assert "PeftModel" not in card and ("the run's first ones, untrained" in card) == first


def test_the_card_of_any_other_run_says_how_to_load_it(tmp_path):
    card = card_of(tmp_path / "adapter", None)
    assert "PeftModel.from_pretrained" in card and "privacy.ssop" not in card


def test_a_folder_of_an_older_version_is_of_no_blind_run(tmp_path):
    card_of(tmp_path / "adapter", None)
    about = json.loads((tmp_path / "adapter" / "elsa.json").read_text())
    del about["turned"]
    (tmp_path / "adapter" / "elsa.json").write_text(json.dumps(about))
    assert load_folder(tmp_path / "adapter").turned is None
