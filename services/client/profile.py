"""What a client measures of itself for a run whose splits are planned: seconds of each part of a step.

Figures are kept in the user's cache folder, so that a run like one before it does not measure again. Clients of one
machine measure one after another: at the same time they would take each other for slow hardware.
"""

import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version

from elsa.model.adapter_config import AdapterConfig
from elsa.model.weights import Checkpoint
from elsa.plan.kept import KeptFigures
from elsa.plan.messages import client_to_proto
from elsa.plan.profile import ClientProfile
from elsa.spec import RunSpec
from elsa.train.measuring import client_seconds, sampled_blocks
from elsa.v1 import fleet_pb2
from services.client.limits import Limits
from services.client.settings import ClientSettings
from services.rpc.folders import turn
from services.rpc.pace import Pace

log = logging.getLogger(__name__)

LIKE_ROWS = 1.1
"""How far lengths of rows lie apart that are measured: clients of a machine share figures of rows like theirs."""


def profile_of(
    spec: RunSpec,
    checkpoint: Checkpoint,
    config: AdapterConfig,
    limits: Limits,
    settings: ClientSettings,
    *,
    pace: float = 1.0,
    measuring: Callable[[], None] = lambda: None,
) -> fleet_pb2.ClientProfile:
    """This client's profile for a run: measured, or as it was measured before; no weight is read.

    Args:
        checkpoint: the run's model, perhaps without its weights.
        pace: how many times slower than measured it computes, for experiments; is not kept.
        measuring: called before it is measured, which takes seconds.

    Raises:
        SpecError: a figure cannot be one.
        ModelError: as `elsa.train.measuring.client_seconds`.
    """
    row_tokens = limits.workload.row_tokens
    padded_tokens = limits.workload.padded_tokens or row_tokens
    tokens = like_tokens(padded_tokens)
    blocks = sampled_blocks(limits.shape, spec.model.base_dtype, limits.most_blocks)

    def measure() -> Mapping[str, float]:
        measuring()
        begin = time.monotonic()
        log.info("measures blocks, the embeddings and the head of %s with batches as the run's", spec.model.source)
        seconds = asdict(client_seconds(spec, checkpoint, config, tokens, blocks))
        log.info("measured in %.1f s: %s", time.monotonic() - begin, _as_text(seconds))
        return seconds

    with turn(settings.profiles_folder):
        kept = KeptFigures(settings.profiles_folder)
        figures = kept.get(_key(spec, checkpoint, config, tokens, blocks, settings.threads), measure)
    profile = ClientProfile(
        name=settings.name,
        block_s=pace * figures["block_s"],
        embeddings_s=pace * figures["embeddings_s"],
        head_s=pace * figures["head_s"],
        codec_s=figures["codec_s"],
        memory_bytes=limits.memory_bytes,
        max_bottom=limits.max_bottom,
        padded_tokens=padded_tokens,
    )
    return client_to_proto(profile, row_tokens)


def like_tokens(row_tokens: float) -> float:
    """The length of row, at most 5 % off, at which rows of so many tokens on average are measured."""
    return float(round(LIKE_ROWS ** round(math.log(row_tokens, LIKE_ROWS)), 1))


def pace_of(settings: ClientSettings) -> Pace:
    """How many times slower a client computes than it can, by version of the adapter."""
    return Pace.parse(settings.pace)


def _key(
    spec: RunSpec, checkpoint: Checkpoint, config: AdapterConfig, tokens: float, blocks: int, threads: int
) -> dict[str, object]:
    """All that the figures depend on but the hardware."""
    return {
        "role": "client",
        "elsa": version("elsa"),
        "torch": version("torch"),
        "model_config": hashlib.sha256((checkpoint.folder / "config.json").read_bytes()).hexdigest(),
        "base_dtype": spec.model.base_dtype,
        "task": spec.model.task,
        "labels": len(spec.data.labels),
        "max_tokens": spec.model.max_tokens,
        "row_tokens": tokens,
        "blocks": blocks,
        "batch": spec.training.batch,
        "micro_batches": spec.training.micro_batches,
        "checkpointing": spec.training.checkpointing,
        "dropout": spec.training.dropout,
        "bottom_adapters": spec.lora.bottom_adapters,
        "codecs": spec.codecs.model_dump(mode="json"),
        "public_calibration": spec.privacy.public_calibration,
        "rank": config.rank,
        "targets": sorted(config.targets),
        "threads": threads,
    }


def _as_text(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{name.removesuffix('_s')} {1e3 * value:.1f} ms" for name, value in seconds.items())
