"""A client's end of its tensors in one run, as the run's specification says."""

import torch

from elsa.model.segment import Segment
from elsa.spec import RunSpec, Split
from elsa.train.client_end import ClientEnd
from elsa.train.fitting import codecs_for
from elsa.train.reuse import ClientRows
from elsa.wire.codec.moments import Moments
from elsa.wire.kept import KeptRows, Shelf

ROWS_BYTES = 1 << 30
"""Most memory for a client's own copy of what the edge keeps; rows beyond it travel whole."""


def client_end(spec: RunSpec, segment: Segment, split: Split, probes: torch.Tensor) -> ClientEnd:
    """The end of one client. Raises SpecError where the run's codecs do not fit the model.

    Args:
        probes: (tokens, width) states of the public probes at the lower cut.
    """
    codecs = codecs_for(spec, segment.width)
    moments = Moments(segment.width)
    if spec.privacy.ssop is None:  # what is known may not stand beside the same turned
        moments.add(probes)
    rows = None
    if spec.reuse.enabled:
        rows = ClientRows(
            frozen=not spec.lora.bottom_adapters,
            threshold=spec.reuse.threshold,
            kept=KeptRows(Shelf(ROWS_BYTES, 0)),
        )
    at_once = spec.privacy.public_calibration and bool(codecs.h1.calibration_layout())
    return ClientEnd(codecs, segment.width, split, rows=rows, probes=moments, at_once=at_once)
