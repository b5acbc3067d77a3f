"""A task model's shape without its weights, and which head modules a checkpoint leaves to be trained anew."""

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from elsa.errors import ModelError
from elsa.model.alone import alone
from elsa.model.architecture import Architecture
from elsa.model.weights import Checkpoint
from elsa.spec import Task


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """A Hugging Face task model with its parameters on `meta` and its buffers real."""

    model: Any
    config: Any
    architecture: Architecture
    task: Task

    @property
    def blocks(self) -> Any:
        """The block list (a ModuleList)."""
        return self.model.get_submodule(self.architecture.blocks)


@alone
def skeleton(checkpoint: Checkpoint, task: Task, num_labels: int) -> Skeleton:
    """The task model of a checkpoint, nothing allocated.

    Raises:
        ArchitectureError: if the family cannot do the task.
        ModelError: if classification is asked for with fewer than 2 labels.
        CheckpointError: if the configuration cannot be read.
    """
    checkpoint.architecture.head_paths(task)
    if task == "classification" and num_labels < 2:
        raise ModelError(f"classification needs at least 2 labels, got {num_labels}; name them in data.labels")
    config = checkpoint.config(task, num_labels)
    auto: Any = AutoModelForSequenceClassification if task == "classification" else AutoModelForCausalLM
    with init_empty_weights(include_buffers=False):
        model = auto.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    return Skeleton(model=model.eval(), config=config, architecture=checkpoint.architecture, task=task)


def head_modules(bones: Skeleton, checkpoint: Checkpoint) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Paths of the head modules that are trained in full, and of those among them that are new.

    A module is new when the checkpoint lacks one of its tensors or has it in another shape, as the
    classifier of a bare model. A language-model head is neither: it must be there.
    """
    if bones.task != "classification":
        return (), ()
    paths = bones.architecture.head_paths(bones.task)
    new = tuple(path for path in paths if _is_new(bones.model.get_submodule(path), path, checkpoint))
    trained = tuple(path for path in paths if path != bones.architecture.pooler or path in new)
    return trained, new


def _is_new(module: nn.Module, path: str, checkpoint: Checkpoint) -> bool:
    return any(
        checkpoint.shape(f"{path}.{name}") != tuple(parameter.shape) for name, parameter in module.named_parameters()
    )
