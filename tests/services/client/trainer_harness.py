"""A client's trainer with a segment of its own, at any split."""

import threading

from split_harness import HALF, LABELS, RUN, config_of

from elsa.model import adapter as adapters
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from services.client.trainer import RoundTrainer


def segment_of(spec, split):
    checkpoint = Checkpoint.open(spec.model.source)
    segment = Segment.client(checkpoint, split, task=spec.model.task, num_labels=len(LABELS), seed=spec.seed)
    adapters.attach(segment, config_of(spec))
    return segment


def trainer_of(spec, data, stub, split=HALF, *, segment=None, stop=None, patience_s=20.0, **given):
    return RoundTrainer(
        "ann",
        RUN,
        spec,
        segment or segment_of(spec, split),
        split,
        Checkpoint.open(spec.model.source),
        data,
        stub=stub,
        peer="edge",
        stop=stop or threading.Event(),
        patience_s=patience_s,
        report=lambda progress: None,
        **given,
    )
