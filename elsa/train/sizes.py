"""What planning must know of a model: its sizes, counted on its skeleton and in what autograd saves of one block.

Nothing is looked up or asked, and no weight is read: devices count before they hold any.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch.autograd.graph import saved_tensors_hooks

from elsa.data.batches import Batch
from elsa.model import adapter as adapters
from elsa.model.adapter_config import AdapterConfig
from elsa.model.architecture import block_index
from elsa.model.loading import stored_parameters
from elsa.model.skeleton import skeleton
from elsa.model.weights import Checkpoint
from elsa.plan.shape import ModelShape
from elsa.spec import RunSpec, Split
from elsa.train.loss import loss_sum
from elsa.train.sampled import Sample
from elsa.train.vocabulary import labelled

MOST_TOKENS = 512
"""Of the row on which activations are counted."""
FLOAT32_BYTES = 4


def model_shape(
    spec: RunSpec,
    checkpoint: Checkpoint,
    config: AdapterConfig,
    check: Callable[[ModelShape], None] = lambda counted: None,
) -> ModelShape:
    """The sizes of a run's model, in numbers of values; the checkpoint needs no weights.

    Values are counted on the skeleton, what is tied once, and on the adapter's names.
    Activations are the float32 values that autograd saves in one forward of one block, and of the head with the loss,
    a token of one row of `max_tokens` or 512 tokens, whichever is less: distinct memory, without parameters, what all
    blocks share and logits of a language model, which a step makes a part at a time. The row is padded, as rows of a
    batch are: a mask makes attention keep a number for each pair of tokens.

    For a short time this takes the memory of one block, of the final norm, a pooler and a classifier, and what one
    row keeps there; never that of embeddings or of logits.

    Args:
        check: is told what is counted, with 0 activations, before anything is allocated; may refuse it.

    Raises:
        What `check` raises.
        ArchitectureError, ModelError, CheckpointError: as `Segment.sample`.
        SplitError: if the model has fewer than 2 blocks.
    """
    counted = _counted(spec, checkpoint, config)
    check(counted)
    with torch.random.fork_rng(devices=[]):
        sample = Sample(spec, checkpoint, config, ends=True, checkpointing=False, vocabulary=False)
        sample.attach()
        block, head = _activations(sample, spec.model.max_tokens)
    return replace(counted, block_activations=block, head_activations=head)


def _counted(spec: RunSpec, checkpoint: Checkpoint, config: AdapterConfig) -> ModelShape:
    """All sizes but activations, which are 0."""
    bones = skeleton(checkpoint, spec.model.task, len(spec.data.labels))
    family, embeddings = bones.architecture, bones.architecture.embedding_paths()
    sizes = {name: bones.model.get_parameter(name).numel() for name in stored_parameters(bones.model, ())}
    before = {name for name in sizes if name.startswith(tuple(f"{path}." for path in embeddings))}
    inside = {name for name in sizes if block_index(name, family) is not None}
    trained = adapters.shapes(checkpoint, config, len(spec.data.labels))
    adapted = {name for name in trained if block_index(name, family) is not None}
    blocks = Split(bottom=1, trunk=bones.config.num_hidden_layers - 1, top=0).blocks
    return ModelShape(
        blocks=blocks,
        width=bones.config.hidden_size,
        block_weights=sum(sizes[name] for name in inside) // blocks,
        embedding_weights=sum(sizes[name] for name in before),
        head_weights=sum(sizes[name] for name in sizes.keys() - before - inside),
        largest_weights=max(sizes.values()),
        block_adapter=sum(math.prod(trained[name]) for name in adapted) // blocks,
        head_adapter=sum(math.prod(trained[name]) for name in trained.keys() - adapted),
        block_activations=0,
        head_activations=0,
    )


def _kept(sample: Sample, states: torch.Tensor, batch: Batch) -> torch.Tensor:
    """What holds all that stays of a forward of final norm, head and loss: of a language model, of the norm alone."""
    segment, split = sample.segment, sample.ends_split
    if segment.task == "causal-lm":
        return labelled(segment.final(states, batch.attention_mask, split), batch.labels)[0]
    return loss_sum(segment.top(states, batch.input_ids, batch.attention_mask, split), batch.labels, segment.task)


def _activations(sample: Sample, max_tokens: int) -> tuple[int, int]:
    """Values a token that autograd saves in a block, and in head and loss, on one row."""
    tokens = min(max_tokens, MOST_TOKENS)
    plain, padded = (_block_bytes(sample, sample.batch(1, tokens, padded=padded)) for padded in (False, True))
    block = plain + (padded - plain) * max_tokens / tokens  # a mask has as many values a token as the row has tokens
    row = sample.batch(1, tokens, padded=False)
    states = sample.states(row).requires_grad_()
    head = saved_bytes(lambda: _kept(sample, states, row), sample.frozen())
    return math.ceil(block / FLOAT32_BYTES / tokens), math.ceil(head / FLOAT32_BYTES / tokens)


def _block_bytes(sample: Sample, row: Batch) -> int:
    (call,), states = sample.calls(row), sample.states(row).requires_grad_()
    return saved_bytes(lambda: sample.run_blocks(states, [call]), [*sample.frozen(), *call.tensors()])


def saved_bytes(forward: Callable[[], torch.Tensor], known: Iterable[torch.Tensor]) -> int:
    """Bytes of distinct memory that autograd saves in `forward`, without what `known` tensors lie in."""
    saved: list[torch.Tensor] = []  # held, so that no two of them can lie in the same memory after one another

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.detach())
        return tensor.detach()

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    besides = {tensor.untyped_storage().data_ptr() for tensor in known}
    memory = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in saved}
    del result
    return sum(size for place, size in memory.items() if place not in besides)
