"""A split model is the unsplit one: same logits, same loss, same gradients, for every family and split."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BLOCKS, DECODERS, ENCODERS, LABELS, VOCABULARY, MakeFolder
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from elsa.model import adapter
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.spec import LoraSpec, Split, Task

# PEFT's own PeftModel, which only the reference uses, asks transformers for a name that it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

TOLERANCE = 1e-6
CASES = [(family, "classification") for family in ENCODERS + DECODERS]
CASES += [(family, "causal-lm") for family in DECODERS]
SPLITS = [
    Split(bottom=bottom, trunk=BLOCKS - bottom - top, top=top)
    for bottom in range(1, BLOCKS)
    for top in range(BLOCKS - bottom)
]


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


def full_adapter(checkpoint: Checkpoint, task: Task, seed: int = 3) -> tuple[adapter.AdapterConfig, dict]:
    """A whole model's adapter with B away from zero, where all gradients are."""
    config = adapter.adapter_config(checkpoint, LoraSpec(rank=2, alpha=3.0), task, LABELS)
    tensors = adapter.initial_adapter(checkpoint, config, LABELS, seed)
    draw = np.random.default_rng(seed)
    for name in sorted(tensors):
        if ".lora_B." in name:
            tensors[name] = draw.normal(0, 0.3, tensors[name].shape).astype(np.float32)
    return config, tensors


def reference(folder: Path, config: adapter.AdapterConfig, tensors: dict, batch: Batch, task: Task):
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


@pytest.mark.parametrize("lengths", [[7, 7, 7], [7, 3, 5]], ids=["full", "padded"])
@pytest.mark.parametrize(("family", "task"), CASES)
def test_split_step_equals_unsplit_model(
    make_folder: MakeFolder, family: str, task: Task, lengths: list[int]
) -> None:
    folder = make_folder(family, task)
    checkpoint = Checkpoint.open(str(folder))
    config, tensors = full_adapter(checkpoint, task)
    batch = batch_of(lengths, checkpoint.config(task, LABELS).pad_token_id, task)
    want_logits, want_loss, want = reference(folder, config, tensors, batch, task)
    # One edge that owns more than any split's trunk, one whole, and a client of each split.
    edge = Segment.edge(checkpoint, range(1, BLOCKS), task=task, num_labels=LABELS)
    adapter.attach(edge, config)
    adapter.write(edge, tensors)
    for split in SPLITS:
        client = Segment.client(checkpoint, split, task=task, num_labels=LABELS)
        adapter.attach(client, config)
        adapter.write(client, tensors)
        edge.model.zero_grad(set_to_none=True)
        logits, loss = split_step(client, edge, split, batch, task)
        real = slice(None) if task == "classification" else batch.attention_mask.bool()
        torch.testing.assert_close(logits[real], want_logits[real], rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(loss, want_loss, rtol=0, atol=TOLERANCE)
        assert_near(gradients_of(client) | gradients_of(edge, split=split), want)
