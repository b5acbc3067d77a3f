"""What a client asks for when it opens a stream, checked against the run."""

from collections.abc import Sequence

from elsa.errors import MalformedError, SplitError
from elsa.spec import RunSpec, Split
from elsa.v1 import split_pb2 as pb
from elsa.wire.codec.registry import codec_set_from_proto
from services.edge.sessions import Agreed

MAX_WINDOW = 16


def agreed_from_proto(message: pb.TrainOpen, width: int) -> Agreed:
    """The opening of a new Train session. Raises MalformedError naming the field."""
    return Agreed(
        run_id=message.run_id,
        client=message.client_id,
        version=message.version,
        edge_round=message.edge_round,
        split=split_from_proto(message.split, "open.split"),
        codecs=codec_set_from_proto(message.codecs, width),
        window=checked_window(message.window),
    )


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
