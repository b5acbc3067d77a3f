"""What a client asks for when it opens a stream, checked against the run."""

from collections.abc import Sequence

import torch

from elsa.codecs import CodecsSpec
from elsa.errors import MalformedError, SplitError
from elsa.privacy.ssop import key_from_proto
from elsa.privacy.turns import Turns
from elsa.spec import RunSpec, Split
from elsa.train.fitting import codecs_for
from elsa.train.messages import Chunks
from elsa.v1 import split_pb2 as pb
from elsa.v1.tensor_pb2 import CodecSet
from elsa.wire.codec.registry import codec_set_from_proto
from elsa.wire.exchange import NAME_BYTES
from elsa.wire.tensor import Layout, PayloadAssembler
from services.edge.session import Agreed

MAX_WINDOW = 16
MOST_CALIBRATIONS = 16


def agreed_from_proto(message: pb.TrainOpen, spec: RunSpec, width: int) -> Agreed:
    """The opening of a new Train session. Raises MalformedError naming the field."""
    check_codecs(message.codecs, spec, width)
    trained = spec.lora.bottom_adapters
    if message.wants_gradient != trained:
        raise MalformedError(
            f"open.wants_gradient: {message.wants_gradient}; the run's lora.bottom_adapters is {trained}"
        )
    return Agreed(
        run_id=message.run_id,
        client=message.client_id,
        version=message.version,
        edge_round=message.edge_round,
        split=split_from_proto(message.split, "open.split"),
        window=checked_window(message.window),
        wants_gradient=trained,
    )


def check_codecs(message: CodecSet, spec: RunSpec, width: int) -> None:
    """Raise MalformedError unless a stream's codecs are known here and those of the run."""
    theirs, ours = codec_set_from_proto(message, width), codecs_for(spec, width)
    for name in CodecsSpec.model_fields:
        told, agreed = getattr(theirs, name).text, getattr(ours, name).text
        if told != agreed:
            raise MalformedError(f"open.codecs.{name}: {told}; the run's specification says {agreed}")


def checked_calibrations(names: Sequence[bytes]) -> list[bytes]:
    """Names of calibrations that a client says it holds. Raises MalformedError."""
    if len(names) > MOST_CALIBRATIONS or any(len(name) != NAME_BYTES for name in names):
        raise MalformedError(f"open.calibrations: at most {MOST_CALIBRATIONS} names of {NAME_BYTES} bytes")
    return list(names)


def turns_from_proto(message: pb.SsopKey | None, spec: RunSpec, width: int, feed: Chunks) -> Turns | None:
    """The secret turns that the edge is told, with the basis that follows the opening in chunks.

    Raises MalformedError if the run does not say that it is told them, if it is not told what the run says, or for a
    basis of another shape or whose rows are not orthonormal.
    """
    ssop = spec.privacy.ssop
    keyed = ssop is not None and ssop.edge == "keyed"
    if (message is not None) != keyed:
        raise MalformedError(f"open.ssop: {'missing' if keyed else 'set'}; the run's SS-OP is {ssop and ssop.edge}")
    if message is None or ssop is None:
        return None
    key, each_step = key_from_proto(message)
    if each_step != (ssop.renew == "step"):
        raise MalformedError(f"open.ssop.renew_each_step: {each_step}; the run's privacy.ssop.renew is {ssop.renew}")
    layouts = [Layout(dtype=torch.float32, shape=(ssop.rank, width))]
    assembler = PayloadAssembler(message.basis, layouts, "open.ssop.basis")
    feed(assembler)
    (basis,) = assembler.result()
    turns = Turns(key, basis, spec.split.bottom, renew_each_step=each_step)
    turns(0)  # refuses a basis before anything is trained under it
    return turns


def split_from_proto(message: pb.Split, field: str) -> Split:
    """A split. Raises MalformedError if it is impossible."""
    try:
        return Split(bottom=message.bottom, trunk=message.trunk, top=message.top)
    except SplitError as error:
        raise MalformedError(f"{field}: {error}") from error


def checked_window(window: int) -> int:
    """`window`, if it is from 1 to 16. Raises MalformedError."""
    if not 1 <= window <= MAX_WINDOW:
        raise MalformedError(f"open.window: {window}; it must be from 1 to {MAX_WINDOW}")
    return window


def checked_lengths(lengths: Sequence[int], spec: RunSpec) -> list[int]:
    """Real tokens of each row, within the run's batch and length. Raises MalformedError."""
    rows, longest = spec.training.batch, spec.model.max_tokens
    if not 1 <= len(lengths) <= rows:
        raise MalformedError(f"forward.lengths: {len(lengths)} rows; the run's batch allows 1 to {rows}")
    for index, length in enumerate(lengths):
        if not 1 <= length <= longest:
            raise MalformedError(f"forward.lengths[{index}]: {length} tokens; the run allows 1 to {longest}")
    return list(lengths)
