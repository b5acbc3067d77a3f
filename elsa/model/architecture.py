"""What differs between model families, as one table; carving, running and adapters are the same for all.

Paths are those of the Hugging Face task model. No torch here: the cloud reads block numbers from names.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from elsa.errors import ArchitectureError
from elsa.spec import Split, Task

PEFT_PREFIX = "base_model.model."
"""What PEFT puts before a task model's own parameter names when it saves an adapter."""


class HasModelType(Protocol):
    """A Hugging Face configuration, as far as this module reads it."""

    model_type: str


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One model family: where its parts lie and what its adapters target by default."""

    model_type: str
    backbone: str
    """Path of the model below the head; checkpoints of the bare model lack this prefix."""
    blocks: str
    """Path of the block list."""
    embeddings: str
    """Path of the module whose output, given token numbers, is the (batch, tokens, width) states."""
    added: tuple[str, ...] = ()
    """Paths of embeddings whose output is added to those states (learned positions)."""
    after_embeddings: tuple[str, ...] = ()
    """Paths of modules applied to the sum before the first block (dropout)."""
    final_norm: str | None = None
    pooler: str | None = None
    """Path of a head module that belongs to the backbone and that bare checkpoints often have."""
    heads: Mapping[Task, tuple[str, ...]] = field(default_factory=dict)
    """Paths of the head modules by task; a missing task is one that the family cannot do."""
    targets: tuple[str, ...]
    """Names of the query and value projections."""
    transposed: bool = False
    """Whether projections keep their weights as (in, out), as GPT-2's Conv1D does."""
    token_types: bool = False
    """Whether the embeddings take token types."""
    positions: Literal["learned", "after padding", "rotary"] = "rotary"
    """Learned: one a place, which bounds a row's length; after padding: so too, numbered from behind the padding
    token's number; rotary: no table, so no bound."""

    @property
    def is_encoder(self) -> bool:
        """Whether every token sees the whole text, so that the first one, [CLS], stands for it."""
        return "causal-lm" not in self.heads

    def head_paths(self, task: Task) -> tuple[str, ...]:
        """Paths of everything after the final norm, pooler first.

        Raises:
            ArchitectureError: if the family has no such head.
        """
        if task not in self.heads:
            raise ArchitectureError(
                f"a {self.model_type} model cannot do {task}; use {' or '.join(self.heads)}, or another model"
            )
        pooler = (self.pooler,) if self.pooler and task == "classification" else ()
        return (*pooler, *self.heads[task])

    def embedding_paths(self) -> tuple[str, ...]:
        """Paths of everything before the first block."""
        return (self.embeddings, *self.added, *self.after_embeddings)


def _encoder(
    model_type: str, pooler: str | None = None, positions: Literal["learned", "after padding"] = "learned"
) -> Architecture:
    return Architecture(
        model_type=model_type,
        backbone=model_type,
        blocks=f"{model_type}.encoder.layer",
        embeddings=f"{model_type}.embeddings",
        pooler=pooler,
        heads={"classification": ("classifier",)},
        targets=("query", "value"),
        token_types=True,
        positions=positions,
    )


def _decoder(model_type: str) -> Architecture:
    return Architecture(
        model_type=model_type,
        backbone="model",
        blocks="model.layers",
        embeddings="model.embed_tokens",
        final_norm="model.norm",
        heads={"classification": ("score",), "causal-lm": ("lm_head",)},
        targets=("q_proj", "v_proj"),
    )


_DISTILBERT = Architecture(
    model_type="distilbert",
    backbone="distilbert",
    blocks="distilbert.transformer.layer",
    embeddings="distilbert.embeddings",
    heads={"classification": ("pre_classifier", "classifier")},
    targets=("q_lin", "v_lin"),
    positions="learned",
)

_GPT2 = Architecture(
    model_type="gpt2",
    backbone="transformer",
    blocks="transformer.h",
    embeddings="transformer.wte",
    added=("transformer.wpe",),
    after_embeddings=("transformer.drop",),
    final_norm="transformer.ln_f",
    heads={"classification": ("score",), "causal-lm": ("lm_head",)},
    targets=("c_attn",),
    transposed=True,
    positions="learned",
)

FAMILIES: Mapping[str, Architecture] = {
    family.model_type: family
    for family in (
        _encoder("bert", pooler="bert.pooler"),
        _encoder("roberta", positions="after padding"),
        _DISTILBERT,
        _GPT2,
        *(_decoder(name) for name in ("llama", "mistral", "qwen2", "qwen3", "gemma")),
    )
}
"""Every supported family by its `model_type`; another family is one entry."""


def architecture_of(config: HasModelType) -> Architecture:
    """The family of a Hugging Face configuration. Raises ArchitectureError listing the supported ones."""
    return architecture_named(config.model_type)


def architecture_named(model_type: str) -> Architecture:
    """The family of that `model_type`. Raises ArchitectureError listing the supported ones."""
    try:
        return FAMILIES[model_type]
    except KeyError:
        raise ArchitectureError(
            f"model family {model_type!r} is not supported; choose a model of {', '.join(FAMILIES)}"
        ) from None


def block_index(name: str, architecture: Architecture) -> int | None:
    """The block that a parameter belongs to, by its task-model or PEFT name; None outside the blocks."""
    path = re.escape(architecture.blocks)
    found = re.match(rf"(?:{re.escape(PEFT_PREFIX)})?{path}\.(\d+)\.", name)
    return int(found.group(1)) if found else None


def trunk_names(names: Iterable[str], architecture: Architecture, split: Split) -> frozenset[str]:
    """Those of the names that lie in the trunk of the split."""
    return frozenset(name for name in names if block_index(name, architecture) in split.trunk_blocks)


def bottom_names(names: Iterable[str], architecture: Architecture, split: Split) -> frozenset[str]:
    """Those of the names that lie in blocks before the cut."""
    return frozenset(name for name in names if block_index(name, architecture) in range(split.bottom))
