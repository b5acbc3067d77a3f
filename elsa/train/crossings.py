"""What a step takes at either end besides blocks: its tensors encoded, packed into messages, checked and decoded.

Measured through the ends and messages of a run on random states, before there are any others. Rows that an edge
keeps are not counted on: every row travels whole, as in a run's first epoch.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch

from elsa.spec import RunSpec, Split
from elsa.train.client_end import ClientEnd
from elsa.train.edge_end import EdgeEnd, EdgeStream
from elsa.train.ends import client_end, edge_end
from elsa.train.messages import encoded_to_proto, feed_all, forward_to_proto, take_encoded, take_parcel
from elsa.train.packing import mask_of, pack, unpack
from elsa.train.phases import Stopwatch
from elsa.train.session import Position
from elsa.wire.exchange import Encoded
from elsa.wire.kept import Shelf

CALIBRATING = 8
"""Steps that are not counted: codecs learn in them."""
REPEATS = 8
SPLIT = Split(bottom=1, trunk=1, top=0)
"""Only named in errors."""


@dataclass(frozen=True, kw_only=True)
class CrossingSeconds:
    """Of one optimizer step's batch of one client."""

    client_s: float
    edge_s: float


def crossing_seconds(
    spec: RunSpec,
    width: int,
    parts: Sequence[Sequence[int]],
    clock: Callable[[], float] = time.perf_counter,
    rest: Callable[[], None] = lambda: None,
) -> CrossingSeconds:
    """The medians of 8 steps, after 8 in which codecs are calibrated.

    Args:
        width: of a hidden state.
        parts: real tokens of each row, by micro-batch.
        clock: seconds.
        rest: called before each piece of work of either end in the steps that count.

    Raises:
        SpecError: the run's codecs do not fit the width.
    """
    with torch.random.fork_rng(devices=[]):
        crossings = _Crossings(spec, width, clock)
        for _ in range(CALIBRATING):
            crossings.step(parts)
        crossings.rest = rest
        taken = [crossings.step(parts) for _ in range(REPEATS)]
    return CrossingSeconds(
        client_s=median(each.client_s for each in taken), edge_s=median(each.edge_s for each in taken)
    )


class _Watch(Stopwatch):
    """Counts what follows a rest."""

    def __init__(self, clock: Callable[[], float], rest: Callable[[], None]) -> None:
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

    def __init__(self, spec: RunSpec, width: int, clock: Callable[[], float]) -> None:
        whole = spec.model_copy(update={"reuse": spec.reuse.model_copy(update={"enabled": False})})
        self._width, self._clock = width, clock
        self._draw = torch.Generator().manual_seed(0)
        self._client: ClientEnd = client_end(whole, width, SPLIT, self._states(8 * width))
        self._edge: EdgeEnd = edge_end(whole, width, Shelf(0, 0))
        self._stream: EdgeStream = self._edge.stream(SPLIT, self._client.calibrations)
        self._client.begin()
        self._client.opened(self._edge.calibrations)
        self._trains_bottom = spec.lora.bottom_adapters
        self._steps = 0
        self.rest: Callable[[], None] = lambda: None

    def step(self, parts: Sequence[Sequence[int]]) -> CrossingSeconds:
        """All four crossings of each micro-batch; the next step."""
        client, edge = _Watch(self._clock, self.rest), _Watch(self._clock, self.rest)
        for number, lengths in enumerate(parts):
            position, states = Position(step=self._steps, micro_batch=number), self._states(sum(lengths))
            self._forward(client, edge, position, states, lengths)
            self._backward(client, edge, position, states)
        self._steps += 1
        return CrossingSeconds(client_s=client.seconds.network, edge_s=edge.seconds.trunk)

    def _forward(
        self, client: Stopwatch, edge: Stopwatch, position: Position, states: torch.Tensor, lengths: Sequence[int]
    ) -> None:
        with client.timing("network"):
            message, chunks = forward_to_proto(position, self._client.forward(position, states, lengths, ()))
        parcel = take_parcel(message, lengths, self._edge, feed_all(iter(chunks)))
        with edge.timing("trunk"):
            values, kept = self._stream.forward(position, parcel())
            mask_of(lengths)
            down = self._stream.forward_result(position, pack(unpack(values, lengths), lengths))
            encoded_to_proto(down)
        with client.timing("network"):
            self._client.forward_result(position, down, kept=kept)

    def _backward(self, client: Stopwatch, edge: Stopwatch, position: Position, gradient: torch.Tensor) -> None:
        with client.timing("network"):
            payload, chunks = encoded_to_proto(self._client.backward(position, gradient))
        arrived = take_encoded(payload, self._edge.dh2, len(gradient), "backward.gradient", feed_all(iter(chunks)))
        down: Encoded | None = None
        with edge.timing("trunk"):
            lower = self._stream.backward(position, arrived())
            if self._trains_bottom:
                down = self._stream.backward_result(position, lower)
                encoded_to_proto(down)
        with client.timing("network"):
            self._client.backward_result(position, down)

    def _states(self, tokens: int) -> torch.Tensor:
        return torch.randn(tokens, self._width, generator=self._draw)
