"""What this edge says of itself for a run, found out before the run is loaded: what it needs, and how fast it is."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

import torch

from elsa.model.adapter import adapter_config
from elsa.model.adapter_config import AdapterConfig
from elsa.model.digest import base_digest
from elsa.model.weights import Checkpoint
from elsa.plan.kept import KeptFigures
from elsa.plan.messages import edge_to_proto, shape_to_proto
from elsa.plan.profile import EdgeProfile
from elsa.plan.shape import ModelShape
from elsa.spec import RunSpec
from elsa.train.fitting import check_fits
from elsa.train.measuring import edge_seconds, sampled_blocks
from elsa.train.sizes import model_shape
from elsa.v1 import fleet_pb2
from services.edge.fit import Fit
from services.edge.worker import Worker
from services.rpc.folders import turn
from services.rpc.memory import give_back
from services.rpc.pace import Pace

log = logging.getLogger(__name__)

NOWHERE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run that this edge can take part in, before its trunk is loaded."""

    checkpoint: Checkpoint
    config: AdapterConfig
    fit: Fit
    base_digest: str
    """Names the frozen base; empty where that cannot be told of this machine's folder."""
    seconds: Mapping[str, float] | None
    """In a run whose splits are planned: those of an `EdgeProfile`, by its names."""

    def offer(self, name: str, room: int) -> fleet_pb2.EdgeOffer:
        """What is told when the run is joined, with room for so many sessions."""
        offer = fleet_pb2.EdgeOffer(room=room, base_digest=self.base_digest)
        if self.seconds is not None:
            profile = EdgeProfile(name=name, memory_bytes=self.fit.memory_bytes, capacity=room, **self.seconds)
            offer.profile.CopyFrom(edge_to_proto(profile))
            offer.shape.CopyFrom(shape_to_proto(self.fit.shape))
        return offer


class Profiler:
    """Prepares the runs of an edge.

    Args:
        worker: on whose thread is measured, so that it is not disturbed by this edge's sessions.
        pace: by which seconds are multiplied.
        folder: where seconds are kept that were measured before.
        models: where this machine has models, by the source that runs name.
    """

    def __init__(
        self, worker: Worker, *, capacity: int, pace: Pace, folder: Path, models: Mapping[str, str] = NOWHERE
    ) -> None:
        self._worker = worker
        self._capacity = capacity
        self._pace = pace
        self._folder = folder
        self._models = models

    def prepared(self, spec: RunSpec, there: Callable[[], int], *, joins: bool) -> Prepared:
        """A run as far as it can be known without its weights.

        Args:
            there: tells what the run may take, in bytes.
            joins: whether the run has yet to be told what is measured here.

        Raises:
            CapacityError: there is not memory for the blocks and one session, with the figures.
            SplitError, SpecError, ModelError: the run does not fit the model, or that cannot be had.
        """
        give_back()  # what runs before this one had, which would count as taken
        memory_bytes = there()
        checkpoint = Checkpoint.open(spec.model.source, models=self._models)
        task, labels = spec.model.task, len(spec.data.labels)
        check_fits(spec, checkpoint.config(task, labels).hidden_size)
        checkpoint.check_length(spec.model.max_tokens, task, labels)
        config = adapter_config(checkpoint, spec.lora, task, labels)

        def check(counted: ModelShape) -> None:
            Fit.of(spec, counted, memory_bytes).check(at_least=True)

        shape = self._worker.run(lambda: model_shape(spec, checkpoint, config, check)).value
        fit = Fit.of(spec, shape, memory_bytes)
        fit.check()
        seconds = self._seconds(spec, checkpoint, config, fit) if joins and spec.plans_splits else None
        digest = base_digest(checkpoint, spec.model.base_dtype, task, labels)
        return Prepared(checkpoint=checkpoint, config=config, fit=fit, base_digest=digest, seconds=seconds)

    def _seconds(self, spec: RunSpec, checkpoint: Checkpoint, config: AdapterConfig, fit: Fit) -> dict[str, float]:
        """Of rows as long as the run allows and a quarter as long, since this edge knows none of its clients'."""
        sessions = min(self._capacity, fit.sessions)
        blocks = sampled_blocks(fit.shape, spec.model.base_dtype, fit.most_blocks)

        def measured() -> dict[str, float]:
            longest = float(spec.model.max_tokens)
            log.info("measures blocks of %s with batches as the run's", spec.model.source)
            whole, quarter = (
                self._worker.run(partial(edge_seconds, spec, checkpoint, config, tokens, sessions, blocks)).value
                for tokens in (longest, max(longest / 4, 1.0))
            )
            return asdict(whole) | {"quarter_block_s": quarter.block_s, "quarter_step_s": quarter.step_s}

        with turn(self._folder):
            figures = KeptFigures(self._folder).get(_key(spec, checkpoint, config, fit, sessions, blocks), measured)
        return {name: self._pace.at(0) * figure for name, figure in figures.items()}


def _key(
    spec: RunSpec, checkpoint: Checkpoint, config: AdapterConfig, fit: Fit, sessions: int, blocks: int
) -> dict[str, object]:
    """All that the seconds depend on but the hardware."""
    return {
        "role": "edge",
        "elsa": version("elsa"),
        "torch": version("torch"),
        "model_config": hashlib.sha256((checkpoint.folder / "config.json").read_bytes()).hexdigest(),
        "workload": asdict(replace(fit.workload, local_steps=1)),
        "dropout": spec.training.dropout,
        "codecs": spec.codecs.model_dump(mode="json"),
        "public_calibration": spec.privacy.public_calibration,
        "rank": config.rank,
        "targets": sorted(config.targets),
        "sessions": sessions,
        "blocks": blocks,
        "threads": torch.get_num_threads(),
    }
