"""Checkpoints of known shapes with random weights: what takes time and memory does not depend on the values.

The tokenizer is the packaged MiniLM's, whose vocabulary is smaller than the models'.
"""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from elsa.model.weights import Checkpoint

SMOLLM2_135M = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
"""Of SmolLM2-135M, from its published configuration."""


def smollm2(folder: Path) -> Path:
    """A folder with a model of the shape of SmolLM2-135M; 538 MB."""
    tokenizer = Checkpoint.open("minilm").tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    torch.manual_seed(0)
    config = LlamaConfig(**SMOLLM2_135M, pad_token_id=tokenizer.pad_token_id)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
