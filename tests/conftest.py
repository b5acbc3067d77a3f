"""Tiny random models of every family, saved as a user would save them; one thread for whoever computes."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported; inherited by processes that tests start


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory: pytest.TempPathFactory):
    """`make_folder(family, kind, **save)`: kind 'classification', 'causal-lm' or 'bare'; made once each."""
    import torch
    from tiny_models import COMMON, FIELDS, LABELS
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

    made: dict[tuple[object, ...], Path] = {}

    def make(family: str, kind: str, fields: dict[str, object] | None = None, **save: object) -> Path:
        key = (family, kind, str(fields), str(save))
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{family}-{kind}")
            more = {"num_labels": LABELS} if kind == "classification" else {}
            config = AutoConfig.for_model(family, **(COMMON | FIELDS[family] | more | (fields or {})))
            auto = {
                "classification": AutoModelForSequenceClassification,
                "causal-lm": AutoModelForCausalLM,
                "bare": AutoModel,
            }[kind]
            with torch.random.fork_rng():
                torch.manual_seed(sum(map(ord, family)))
                model = auto.from_config(config)
                for name, parameter in model.named_parameters():
                    if name.endswith("bias"):  # zero by default, which would hide a bias that is not loaded
                        torch.nn.init.normal_(parameter, std=0.1)
            model.save_pretrained(folder, **save)
            made[key] = folder
        return made[key]

    return make
