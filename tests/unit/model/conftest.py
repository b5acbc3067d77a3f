"""Tiny random models of every family, saved as a user would save them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

ENCODERS = ("bert", "roberta", "distilbert")
DECODERS = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma")
LABELS = 3
BLOCKS = 3
VOCABULARY = 40

_COMMON = {"vocab_size": VOCABULARY, "initializer_range": 0.2}
_TRANSFORMER = {
    "hidden_size": 16,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
_DECODER = {"num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
FIELDS = {
    "bert": _TRANSFORMER,
    "roberta": _TRANSFORMER | {"pad_token_id": 1, "type_vocab_size": 1},
    "distilbert": {"dim": 16, "n_layers": BLOCKS, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 32},
    "gpt2": {
        "n_embd": 16,
        "n_layer": BLOCKS,
        "n_head": 2,
        "n_positions": 32,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 2,
    },
    "llama": _TRANSFORMER | _DECODER | {"tie_word_embeddings": True},
    "mistral": _TRANSFORMER | _DECODER | {"sliding_window": 4},
    "qwen2": _TRANSFORMER | _DECODER | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
    "qwen3": _TRANSFORMER | _DECODER,
    "gemma": _TRANSFORMER | _DECODER,
}

MakeFolder = Callable[..., Path]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory: pytest.TempPathFactory) -> MakeFolder:
    """`make_folder(family, kind, **save)`: kind 'classification', 'causal-lm' or 'bare'; made once each."""
    made: dict[tuple[object, ...], Path] = {}

    def make(family: str, kind: str, fields: dict[str, object] | None = None, **save: object) -> Path:
        key = (family, kind, str(fields), str(save))
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{family}-{kind}")
            more = {"num_labels": LABELS} if kind == "classification" else {}
            config = AutoConfig.for_model(family, **(_COMMON | FIELDS[family] | more | (fields or {})))
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
