"""Tiny models of every family, and the plain Hugging Face and PEFT that segments are held against."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from elsa.model import adapter
from elsa.model.adapter_config import AdapterConfig
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.spec import LoraSpec, Split, Task

TOLERANCE = 1e-6
ENCODERS = ("bert", "roberta", "distilbert")
DECODERS = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma")
LABELS = 3
BLOCKS = 3
VOCABULARY = 40

COMMON = {"vocab_size": VOCABULARY, "initializer_range": 0.2}
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
DEPRECATED = "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
"""What PEFT's own PeftModel, which only references use, asks of transformers."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor


def batch_of(lengths: list[int], padding: int, task: Task) -> Batch:
    draw = torch.Generator().manual_seed(7)
    width = max(lengths)
    ids = torch.randint(3, VOCABULARY, (len(lengths), width), generator=draw)
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    ids = torch.where(mask.bool(), ids, padding)
    if task == "classification":
        labels = torch.randint(0, LABELS, (len(lengths),), generator=draw)
    else:
        labels = torch.where(mask.bool(), ids, -100)
    return Batch(input_ids=ids, attention_mask=mask, labels=labels)


def loss_of(logits: torch.Tensor, batch: Batch, task: Task) -> torch.Tensor:
    if task == "classification":
        return cross_entropy(logits, batch.labels)
    return cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=-100)


def full_adapter(checkpoint: Checkpoint, task: Task, seed: int = 3) -> tuple[AdapterConfig, dict]:
    """A whole model's adapter with B away from zero, where all gradients are."""
    config = adapter.adapter_config(checkpoint, LoraSpec(rank=2, alpha=3.0), task, LABELS)
    tensors = adapter.initial_adapter(checkpoint, config, LABELS, seed)
    draw = np.random.default_rng(seed)
    for name in sorted(tensors):
        if ".lora_B." in name:
            tensors[name] = draw.normal(0, 0.3, tensors[name].shape).astype(np.float32)
    return config, tensors


def reference(folder: Path, config: AdapterConfig, tensors: dict, batch: Batch, task: Task):
    """Logits, loss and gradients of plain Hugging Face and PEFT, which share no code with segments."""
    if task == "classification":
        base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=LABELS)
    else:
        base = AutoModelForCausalLM.from_pretrained(folder)
    model = get_peft_model(
        base,
        LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            target_modules=list(config.targets),
            modules_to_save=list(config.modules_to_save) or None,
            fan_in_fan_out=config.transposed,
            task_type="SEQ_CLS" if task == "classification" else "CAUSAL_LM",
        ),
    ).eval()
    trained = {
        name.replace(".modules_to_save", "").replace(".default", ""): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert trained.keys() == tensors.keys()
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(torch.from_numpy(tensors[name]))
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    loss = loss_of(logits, batch, task)
    loss.backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in trained.items()}
    return logits.detach(), loss.detach(), gradients


def split_step(client: Segment, edge: Segment, split: Split, batch: Batch, task: Task):
    """One step over two cuts, gradients passed by hand, nothing sent for padding."""
    real = batch.attention_mask[:, :, None].bool()
    h1 = client.bottom(batch.input_ids, batch.attention_mask, split=split)
    at_edge = torch.where(real, h1.detach(), 0.0).requires_grad_(True)
    h2 = edge.trunk(at_edge, batch.attention_mask, split)
    at_client = torch.where(real, h2.detach(), 0.0).requires_grad_(True)
    logits = client.top(at_client, batch.input_ids, batch.attention_mask, split)
    loss = loss_of(logits, batch, task)
    loss.backward()
    h2.backward(torch.where(real, at_client.grad, 0.0))
    h1.backward(torch.where(real, at_edge.grad, 0.0))
    return logits.detach(), loss.detach()


def gradients_of(segment: Segment, name: str = "default", split: Split | None = None) -> dict[str, np.ndarray]:
    owned = sorted(adapter.names(segment, split))
    found = zip(owned, adapter.parameters(segment, name, split), strict=True)
    return {saved: parameter.grad.numpy().copy() for saved, parameter in found}


def assert_near(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert got.keys() == want.keys()
    for name in want:
        assert np.abs(want[name]).max() > 0, f"{name}: a zero gradient proves nothing"
        np.testing.assert_allclose(got[name], want[name], rtol=0, atol=TOLERANCE, err_msg=name)
