"""The two ends of a client's tensors in one run, as its specification says: for services and rehearsals alike."""

import torch

from elsa.codecs import CodecsSpec
from elsa.protection import PrivacySpec, ReuseSpec
from elsa.spec import RunSpec, Split
from elsa.train.client_end import ClientEnd
from elsa.train.edge_end import EdgeEnd
from elsa.train.fitting import codecs_for
from elsa.train.reuse import ClientRows, EdgeRows
from elsa.wire.codec.moments import Moments
from elsa.wire.kept import KeptRows, Shelf

ROWS_BYTES = 1 << 30
"""Most memory for a client's own copy of what the edge keeps; rows beyond it travel whole."""


def for_probes(spec: RunSpec) -> RunSpec:
    """A run's specification as it holds while probes are answered for a fingerprint.

    They are public, so that nothing has to be hidden of them, and few: as bfloat16 the answer to a probe depends on
    the model alone, not on what a codec has learned of other rows by then.
    """
    plain = CodecsSpec.model_validate({"h1": "bf16", "h2": "bf16"})
    return spec.model_copy(update={"codecs": plain, "privacy": PrivacySpec(), "reuse": ReuseSpec()})


def client_end(spec: RunSpec, width: int, split: Split, probes: torch.Tensor | None = None) -> ClientEnd:
    """The end of one client. Raises SpecError where the run's codecs do not fit a model of `width`.

    Args:
        probes: (tokens, width) states of the public probes at the lower cut, for codecs that are calibrated.
    """
    codecs = codecs_for(spec, width)
    moments = Moments(width)
    if probes is not None and spec.privacy.ssop is None:  # what is known may not stand beside the same turned
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
