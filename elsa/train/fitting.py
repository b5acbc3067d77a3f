"""Whether what a run asks for at the cut fits its model: asked by every node before it takes part."""

from elsa.errors import MalformedError, SpecError
from elsa.spec import RunSpec
from elsa.wire.codec.registry import Codecs, codec_set_from_proto, codec_set_to_proto

MOST_BASIS_BYTES = 900_000
"""Of the basis that the clients of a run share: it travels in one message."""


def codecs_for(spec: RunSpec, width: int) -> Codecs:
    """The codecs of a run for a model of `width`, without calibration.

    Raises SpecError naming the field and the bound where they do not fit.
    """
    try:
        return codec_set_from_proto(codec_set_to_proto(spec.codecs, width), width)
    except MalformedError as error:
        raise SpecError(str(error)) from error


def check_fits(spec: RunSpec, width: int) -> None:
    """Raise SpecError naming the field and the bound unless codecs and SS-OP fit a model of `width`."""
    codecs_for(spec, width)
    ssop = spec.privacy.ssop
    if ssop is not None and ssop.rank > width:
        raise SpecError(f"privacy.ssop.rank: {ssop.rank} is more than the model's width of {width}")
    most = MOST_BASIS_BYTES // (4 * width)
    if ssop is not None and spec.privacy.shares_key and ssop.rank > most:
        raise SpecError(f"privacy.ssop.rank: {ssop.rank}; at width {width} a key that is shared takes at most {most}")
