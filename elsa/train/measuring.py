"""What planning must know of a device: seconds of the parts of a step, measured on a few blocks of the model.

Nothing is looked up or asked: seconds are medians of a few steps at the run's own batch shape. No weight is read:
devices measure before they hold any.

A block that is run again and again finds its weights in the processor's caches, as one of many does not: it takes
less time, here up to a seventh (docs/log.md). So seconds are of several blocks that run one after another, where they
are small. And a device that has waited for its peer, as it does between any two pieces of a step, takes some
milliseconds to be as fast as before: so it rests before all that is timed.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import torch

from elsa.data.batches import Batch
from elsa.model import adapter as adapters
from elsa.model.adapter_config import AdapterConfig
from elsa.model.stand_in import PassThrough, swapped
from elsa.model.weights import Checkpoint
from elsa.plan.memory import BLOCK_BYTES
from elsa.plan.shape import ModelShape
from elsa.spec import BaseDtype, RunSpec
from elsa.train.crossings import Side, crossing_seconds
from elsa.train.loss import count
from elsa.train.optimizer import adamw
from elsa.train.sampled import Call, Sample
from elsa.train.top import learn

BUDGET_S = 2.0
"""About how long a device computes blocks, embeddings and head in all, however many steps that makes."""
LEAST_REPEATS = 2
MOST_REPEATS = 12
REST_S = 0.05
"""Before each of them."""
MOST_TURNS = 4
"""Adapters that take turns, at most, to see what turns cost."""
MOST_BLOCKS = 8
"""Blocks that run one after another, at most: more of them took no longer each."""
BLOCKS_BYTES = 128 << 20
"""About what they hold together at most, which is more than the caches of most processors do."""

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


def client_seconds(
    spec: RunSpec,
    checkpoint: Checkpoint,
    config: AdapterConfig,
    row_tokens: float,
    blocks: int,
    clock: Clock = time.perf_counter,
    sleep: Sleep = time.sleep,
) -> ClientSeconds:
    """How long the parts of a step take here, with as many threads as torch has now.

    Medians of at least 2 steps, in about 6 s in all where steps are short: 2 s of computing, the rest is rests.
    Raises as `elsa.train.sizes.model_shape`.

    Args:
        row_tokens: real tokens of this client's rows on average.
        blocks: to measure on, as `sampled_blocks` says.
        clock, sleep: seconds.
    """
    with torch.random.fork_rng(devices=[]):
        sample = Sample(spec, checkpoint, config, ends=True, blocks=blocks)
        sample.attach()
        parts, budget_s = _parts(spec, sample, row_tokens), BUDGET_S / 3
        block_s = median_seconds(_block_step(spec, sample, parts), budget_s, clock, sleep) / blocks
        embeddings_s = median_seconds(_embeddings_step(sample, parts), budget_s, clock, sleep)
        head_s = median_seconds(_head_step(spec, sample, parts), budget_s, clock, sleep)
        width, lengths = sample.segment.width, [part.lengths for part in parts]
        del sample
        codec_s = _crossings(spec, width, lengths, "client", clock, sleep)
        return ClientSeconds(block_s=block_s, embeddings_s=embeddings_s, head_s=head_s, codec_s=codec_s)


def edge_seconds(
    spec: RunSpec,
    checkpoint: Checkpoint,
    config: AdapterConfig,
    row_tokens: float,
    sessions: int,
    blocks: int,
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
        sample = Sample(spec, checkpoint, config, ends=False, blocks=blocks)
        for name in names:
            sample.attach(name)
        parts = _parts(spec, sample, row_tokens)
        steps = [_block_step(spec, sample, parts, name) for name in names]
        own_s, crowding_s = turned_seconds(steps, BUDGET_S, clock, sleep)
        width, lengths = sample.segment.width, [part.lengths for part in parts]
        del sample, steps
        step_s = _crossings(spec, width, lengths, "edge", clock, sleep)
        return EdgeSeconds(block_s=own_s / blocks, crowding_s=crowding_s / blocks, step_s=step_s)


def sampled_blocks(shape: ModelShape, base: BaseDtype, most: int) -> int:
    """How many blocks to measure on: at most 8, `most` and all but 1, in about 128 MiB of weights, at least 1.

    Args:
        base: in what weights are held.
        most: what memory has room for.
    """
    within = int(BLOCKS_BYTES // (BLOCK_BYTES[base] * shape.block_weights))
    return max(1, min(MOST_BLOCKS, most, shape.blocks - 1, within))


def median_seconds(run: Run, budget_s: float, clock: Clock, sleep: Sleep) -> float:
    """Seconds of `run`, the median of as many as go into `budget_s`, 2 to 12, after one that is not counted."""
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


def _crossings(
    spec: RunSpec, width: int, lengths: Sequence[Sequence[int]], side: Side, clock: Clock, sleep: Sleep
) -> float:
    """Seconds of all micro-batches' tensors, each like the first, which has the most rows."""
    return len(lengths) * crossing_seconds(spec, width, lengths[0], side, clock, lambda: sleep(REST_S))
