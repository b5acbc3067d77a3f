"""What planning must know of a model and a device, measured on a few blocks of it: sizes and seconds.

Nothing is looked up or asked. Sizes are counted on the model's skeleton and in what autograd saves; seconds are
medians of a few steps at the run's own batch shape. No weight is read: devices measure before they hold any.

A block that is run again and again finds its weights in the processor's caches, as one of many does not: it takes up
to a seventh less time. So seconds are of several blocks that run one after another, where they are small. And a
device that has waited for its peer, as it does between any two pieces of a step, takes some milliseconds to be as
fast as before: so it rests before all that is timed.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np
import torch
from torch.autograd.graph import saved_tensors_hooks

from elsa.data.batches import Batch
from elsa.model import adapter as adapters
from elsa.model.adapter_config import AdapterConfig
from elsa.model.architecture import block_index
from elsa.model.loading import stored_parameters
from elsa.model.skeleton import skeleton
from elsa.model.stand_in import PassThrough, swapped
from elsa.model.weights import Checkpoint
from elsa.plan.shape import ModelShape
from elsa.spec import RunSpec, Split
from elsa.train.crossings import CrossingSeconds, crossing_seconds
from elsa.train.loss import count, loss_sum
from elsa.train.optimizer import adamw
from elsa.train.sampled import Call, Sample
from elsa.train.top import learn
from elsa.train.vocabulary import labelled

MOST_TOKENS = 512
"""Of the row on which activations are counted."""
BUDGET_S = 2.0
"""About how long a device measures in all, however many steps that makes."""
LEAST_REPEATS = 2
MOST_REPEATS = 20
REST_S = 0.05
"""Before each of them."""
MOST_TURNS = 4
"""Adapters that take turns, at most, to see what turns cost."""
MOST_BLOCKS = 8
"""Blocks that run one after another, at most: more of them take no longer each."""
BLOCKS_BYTES = 128 << 20
"""About what they hold together at most: larger ones fill the caches by themselves."""
FLOAT32_BYTES = 4

Clock = Callable[[], float]
Sleep = Callable[[float], object]
Run = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class ClientSeconds:
    """Of one optimizer step's batch, at a client."""

    block_s: float
    """One block forward and backward, its adapter's optimizer step included. Where the blocks before the cut are not
    trained they run forward only, which the planner reckons as a share of this."""
    embeddings_s: float
    """What stands before the first block, forward only: nothing there is trained."""
    head_s: float
    """Final norm, pooler, head and loss, forward and backward, and the optimizer's step for what is trained there."""
    codec_s: float
    """To encode what is sent and decode what comes."""


@dataclass(frozen=True, kw_only=True)
class EdgeSeconds:
    """Of one optimizer step's batch of one client, at an edge."""

    block_s: float
    """One block forward and backward, its adapter's optimizer step included."""
    crowding_s: float
    """By how much that grows with each further session that takes turns; at least 0."""
    step_s: float
    """What a step takes besides its blocks: what comes is decoded, and what goes encoded."""


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


def client_seconds(
    spec: RunSpec,
    checkpoint: Checkpoint,
    config: AdapterConfig,
    row_tokens: float,
    most_blocks: int,
    clock: Clock = time.perf_counter,
    sleep: Sleep = time.sleep,
) -> ClientSeconds:
    """How long the parts of a step take here, with as many threads as torch has now.

    Medians of at least 2 steps, in about 2 s in all. Raises as `model_shape`.

    Args:
        row_tokens: real tokens of this client's rows on average.
        most_blocks: that this client's memory holds beside the ends, at least 1.
        clock, sleep: seconds.
    """
    with torch.random.fork_rng(devices=[]):
        blocks = sampled_blocks(_counted(spec, checkpoint, config), most_blocks)
        sample = Sample(spec, checkpoint, config, ends=True, blocks=blocks)
        sample.attach()
        parts, budget_s = _parts(spec, sample, row_tokens), BUDGET_S / 3
        return ClientSeconds(
            block_s=median_seconds(_block_step(spec, sample, parts), budget_s, clock, sleep) / blocks,
            embeddings_s=median_seconds(_embeddings_step(sample, parts), budget_s, clock, sleep),
            head_s=median_seconds(_head_step(spec, sample, parts), budget_s, clock, sleep),
            codec_s=_crossing(spec, sample, parts, clock, sleep).client_s,
        )


def edge_seconds(
    spec: RunSpec,
    checkpoint: Checkpoint,
    config: AdapterConfig,
    row_tokens: float,
    sessions: int,
    clock: Clock = time.perf_counter,
    sleep: Sleep = time.sleep,
) -> EdgeSeconds:
    """How long a block takes here, and how much longer where sessions take turns; as `client_seconds`.

    Turns are tried with 4 adapters at most, and what they cost is spread over the sessions beyond the first.

    Args:
        sessions: how many may be open at once, at least 1.
    """
    names = [str(number) for number in range(min(sessions, MOST_TURNS))]
    with torch.random.fork_rng(devices=[]):
        blocks = sampled_blocks(_counted(spec, checkpoint, config), MOST_BLOCKS)
        sample = Sample(spec, checkpoint, config, ends=False, blocks=blocks)
        for name in names:
            sample.attach(name)
        parts = _parts(spec, sample, row_tokens)
        steps = [_block_step(spec, sample, parts, name) for name in names]
        own_s, crowding_s = turned_seconds(steps, BUDGET_S, clock, sleep)
        return EdgeSeconds(
            block_s=own_s / blocks,
            crowding_s=crowding_s / blocks,
            step_s=_crossing(spec, sample, parts, clock, sleep).edge_s,
        )


def sampled_blocks(shape: ModelShape, most: int) -> int:
    """How many blocks to measure on: at most 8, `most` and all but 1, in about 128 MiB of weights, at least 1."""
    within = BLOCKS_BYTES // (FLOAT32_BYTES * shape.block_weights)
    return max(1, min(MOST_BLOCKS, most, shape.blocks - 1, within))


def median_seconds(run: Run, budget_s: float, clock: Clock, sleep: Sleep) -> float:
    """Seconds of `run`, the median of as many as go into `budget_s`, 2 to 20, after one that is not counted."""
    run()
    taken: list[float] = []
    while _go_on(taken, budget_s):
        sleep(REST_S)
        taken.append(_timed(run, clock))
    return statistics.median(taken)


def turned_seconds(steps: Sequence[Run], budget_s: float, clock: Clock, sleep: Sleep) -> tuple[float, float]:
    """Seconds of a step that follows one of its own, and how much longer it takes for each other that takes turns.

    Each of `steps` is taken twice in its turn; the first time it meets what another left behind. The lower quartile
    of the differences counts, since chance makes as many of them too large as too small.
    """
    if len(steps) == 1:
        return median_seconds(steps[0], budget_s, clock, sleep), 0.0
    for run in steps:
        run()
    after: list[float] = []
    own: list[float] = []
    for run in cycle(steps):
        if not _go_on([*map(sum, zip(after, own, strict=True))], budget_s):
            break
        sleep(REST_S)
        after.append(_timed(run, clock))
        sleep(REST_S)
        own.append(_timed(run, clock))
    grown = max(0.0, float(np.quantile(np.subtract(after, own), 0.25)))
    return statistics.median(own), grown / (len(steps) - 1)


def _go_on(taken: Sequence[float], budget_s: float) -> bool:
    return len(taken) < LEAST_REPEATS or (sum(taken) < budget_s and len(taken) < MOST_REPEATS)


def _timed(run: Run, clock: Clock) -> float:
    begin = clock()
    run()
    return clock() - begin


def _parts(spec: RunSpec, sample: Sample, row_tokens: float) -> list[Batch]:
    """The micro-batches of a step."""
    tokens = min(max(2, round(row_tokens)), spec.model.max_tokens)
    sizes = [len(part) for part in np.array_split(np.arange(spec.training.batch), spec.training.micro_batches)]
    return [sample.batch(rows, tokens, padded=rows > 1) for rows in sizes]


def _block_step(spec: RunSpec, sample: Sample, parts: list[Batch], name: str = "default") -> Run:
    """All blocks of the sample forward and backward for each of `parts`, then their optimizer's step."""
    optimizer = adamw(sample.trained(name, block=True), spec.training.optimizer)
    calls: dict[int, list[Call]] = {len(part): sample.calls(part) for part in parts}
    states = {len(part): sample.states(part) for part in parts}

    def run() -> None:
        adapters.select(sample.segment, name)
        for part in parts:
            leaf = states[len(part)].detach().requires_grad_()
            result = sample.run_blocks(leaf, calls[len(part)])
            result.backward(states[len(part)])  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def _embeddings_step(sample: Sample, parts: list[Batch]) -> Run:
    """Embeddings and all else that a model does before its first block."""

    def run() -> None:
        with swapped(sample.segment.model, [(sample.block_paths[0], PassThrough())]):
            for part in parts:
                sample.segment.bottom(part.input_ids, part.attention_mask, split=sample.ends_split)

    return run


def _head_step(spec: RunSpec, sample: Sample, parts: list[Batch]) -> Run:
    """Head and loss forward and backward for each of `parts`, then the optimizer's step where the head is trained."""
    trained = sample.trained(block=False)
    optimizer = adamw(trained, spec.training.optimizer) if trained else None
    total = sum(count(part.labels, spec.model.task) for part in parts)
    states = {len(part): sample.states(part) for part in parts}

    def run() -> None:
        for part in parts:
            leaf = states[len(part)].detach().requires_grad_()
            learn(sample.segment, leaf, part, sample.ends_split, spec.model.task, total)
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


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


def _crossing(spec: RunSpec, sample: Sample, parts: Sequence[Batch], clock: Clock, sleep: Sleep) -> CrossingSeconds:
    def rest() -> None:
        sleep(REST_S)

    return crossing_seconds(spec, sample.segment.width, [part.lengths for part in parts], clock, rest)


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
