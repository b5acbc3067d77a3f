"""What a step's tensors take at one end besides blocks: encoded, packed into messages, checked and decoded.

Measured through the ends and messages of a run on random states, before there are any others. Rows that an edge
keeps, and errors that are fed back for a row, are not counted on: every row travels whole and unnamed.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Literal

import torch

from elsa.spec import RunSpec, Split
from elsa.train.ends import client_end, edge_end
from elsa.train.messages import encoded_to_proto, feed_all, forward_to_proto, take_encoded, take_parcel
from elsa.train.packing import mask_of, pack, unpack
from elsa.train.phases import Stopwatch
from elsa.train.session import Position
from elsa.v1.tensor_pb2 import Chunk, Payload
from elsa.wire.exchange import Encoded, Receiver
from elsa.wire.kept import Shelf

Side = Literal["client", "edge"]
LEARNING = 8
"""Steps of half as many tokens as a state is wide that are not counted: codecs are calibrated in them."""
REPEATS = 8
PROBE_TOKENS = 2048
"""Most of those that stand for the public probes: about as many as these have."""
SPLIT = Split(bottom=1, trunk=1, top=0)
"""Only named in errors."""


def crossing_seconds(
    spec: RunSpec,
    width: int,
    lengths: Sequence[int],
    side: Side,
    clock: Callable[[], float] = time.perf_counter,
    rest: Callable[[], object] = lambda: None,
) -> float:
    """Seconds of one micro-batch's tensors at one side, both ways: the median of 8, once codecs are calibrated.

    Args:
        width: of a hidden state.
        lengths: real tokens of each row.
        clock: seconds.
        rest: called before each piece of that side's work that counts.

    Raises:
        SpecError: the run's codecs do not fit the width.
    """
    with torch.random.fork_rng(devices=[]):
        crossings = _Crossings(spec, width)
        for _ in range(LEARNING):
            crossings.step([-(-width // 8)] * 4, Stopwatch(), Stopwatch())
        return median(_counted(crossings, lengths, side, clock, rest) for _ in range(REPEATS))


def _counted(
    crossings: "_Crossings",
    lengths: Sequence[int],
    side: Side,
    clock: Callable[[], float],
    rest: Callable[[], object],
) -> float:
    counts, other = _RestedWatch(clock, rest), Stopwatch()
    crossings.step(lengths, *((counts, other) if side == "client" else (other, counts)))
    return counts.seconds.network


class _RestedWatch(Stopwatch):
    """Counts what follows a rest."""

    def __init__(self, clock: Callable[[], float], rest: Callable[[], object]) -> None:
        super().__init__(clock)
        self._rest = rest

    @contextmanager
    def timing(self, phase: str) -> Iterator[None]:
        """See `Stopwatch.timing`."""
        self._rest()
        with super().timing(phase):
            yield


class _Crossings:
    """Both ends of one client's run, in this process."""

    def __init__(self, spec: RunSpec, width: int) -> None:
        whole = spec.model_copy(update={"reuse": spec.reuse.model_copy(update={"enabled": False})})
        self._width = width
        self._draw = torch.Generator().manual_seed(0)
        self.client = client_end(whole, width, SPLIT, self._states(min(2 * width, PROBE_TOKENS)))
        self.edge = edge_end(whole, width, Shelf(0, 0))
        self._stream = self.edge.stream(SPLIT, self.client.calibrations)
        self.client.begin()
        self.client.opened(self.edge.calibrations)
        self._trains_bottom = spec.lora.bottom_adapters
        self._steps = 0

    def step(self, lengths: Sequence[int], client: Stopwatch, edge: Stopwatch) -> None:
        """All four crossings of a step of one micro-batch, counted by side as `network`."""
        position, states = Position(step=self._steps, micro_batch=0), self._states(sum(lengths))
        self._forward(client, edge, position, states, lengths)
        self._backward(client, edge, position, states)
        self._steps += 1

    def _forward(
        self, client: Stopwatch, edge: Stopwatch, position: Position, states: torch.Tensor, lengths: Sequence[int]
    ) -> None:
        with client.timing("network"):
            message, chunks = forward_to_proto(position, self.client.forward(position, states, lengths, ()))
        parcel = take_parcel(message, lengths, self.edge, feed_all(iter(chunks)))
        with edge.timing("network"):
            values, kept = self._stream.forward(position, parcel())
            mask_of(lengths)
            result = pack(unpack(values, lengths), lengths)
            payload, rest = encoded_to_proto(self._stream.forward_result(position, result))
        with client.timing("network"):
            self.client.forward_result(position, _taken(payload, rest, self.client.h2, len(states)), kept=kept)

    def _backward(self, client: Stopwatch, edge: Stopwatch, position: Position, gradient: torch.Tensor) -> None:
        with client.timing("network"):
            payload, chunks = encoded_to_proto(self.client.backward(position, gradient))
        arrived = take_encoded(payload, self.edge.dh2, len(gradient), "gradient", feed_all(iter(chunks)))
        with edge.timing("network"):
            lower = self._stream.backward(position, arrived())
            answer = encoded_to_proto(self._stream.backward_result(position, lower)) if self._trains_bottom else None
        with client.timing("network"):
            back = None if answer is None else _taken(*answer, self.client.dh1, len(gradient))
            self.client.backward_result(position, back)

    def _states(self, tokens: int) -> torch.Tensor:
        return torch.randn(tokens, self._width, generator=self._draw)


def _taken(payload: Payload, chunks: Sequence[Chunk], receiver: Receiver, tokens: int) -> Encoded:
    return take_encoded(payload, receiver, tokens, "tensor", feed_all(iter(chunks)))()
