"""The two ends of a client's tensors in one run, as its specification says: for services and rehearsals alike."""

import torch

from elsa.spec import RunSpec, Split
from elsa.train.client_end import ClientEnd
from elsa.train.edge_end import EdgeEnd
from elsa.train.fitting import codecs_for
from elsa.train.reuse import ClientRows, EdgeRows
from elsa.wire.codec.moments import Moments
from elsa.wire.kept import KeptRows, Shelf

ROWS_BYTES = 1 << 30
"""Most memory for a client's own copy of what the edge keeps; rows beyond it travel whole."""


def client_end(spec: RunSpec, width: int, split: Split, probes: torch.Tensor) -> ClientEnd:
    """The end of one client. Raises SpecError where the run's codecs do not fit a model of `width`.

    Args:
        probes: (tokens, width) states of the public probes at the lower cut.
    """
    codecs = codecs_for(spec, width)
    moments = Moments(width)
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
    return ClientEnd(codecs, width, split, rows=rows, probes=moments, at_once=at_once)


def edge_end(spec: RunSpec, width: int, shelf: Shelf) -> EdgeEnd:
    """The edge's end for one client, which keeps its rows on `shelf`. Raises as `client_end`."""
    rows = None
    if spec.reuse.enabled:
        rows = EdgeRows(KeptRows(shelf), width, frozen=not spec.lora.bottom_adapters)
    return EdgeEnd(codecs_for(spec, width), width, rows=rows)
