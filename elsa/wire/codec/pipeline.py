"""A codec as its stages, left to right: narrowing, then rounding."""

from collections.abc import Sequence
from typing import Self

import torch

from elsa.errors import MalformedError, NotFiniteError
from elsa.wire.codec.finite import all_finite
from elsa.wire.codec.int8 import Int8Rounding
from elsa.wire.codec.moments import Moments
from elsa.wire.codec.stages import Calibrated, Narrowing, Rounding
from elsa.wire.codec.topk import TopKStage
from elsa.wire.tensor import Layout


class Pipeline:
    """The one implementation of `Codec`: at most one calibrated stage, other narrowing stages, one rounding stage.

    What travels are the side tensors of the narrowing stages, left to right, then the rounding stage's.
    """

    def __init__(
        self, *, width: int, calibrated: Calibrated | None, narrowing: Sequence[Narrowing], rounding: Rounding
    ) -> None:
        self._width = width
        self._calibrated = calibrated
        self._rest = tuple(narrowing)
        self._narrowing: tuple[Narrowing, ...] = (() if calibrated is None else (calibrated,)) + self._rest
        self._rounding = rounding
        self._ready = calibrated is None
        self.leaves_out = any(isinstance(stage, TopKStage) for stage in self._narrowing)
        names = [stage.text for stage in self._narrowing]
        self.text = " | ".join(names if names and rounding.text == "none" else [*names, rounding.text])

    def calibration_layout(self) -> list[Layout]:
        """Of the calibrated stage; nothing where there is none."""
        return [] if self._calibrated is None else self._calibrated.calibration_layout()

    def fit(self, moments: Moments) -> list[torch.Tensor]:
        """A calibration of `calibration_layout`. Raises NotFiniteError for moments that are not finite."""
        return [] if self._calibrated is None else self._calibrated.fit(moments)

    def calibrated(self, tensors: Sequence[torch.Tensor]) -> Self:
        """This codec under a calibration. Raises MalformedError for one of another layout or that is not finite."""
        if self._calibrated is None:
            if tensors:
                raise MalformedError(f"{self.text}: a calibration of {len(tensors)} tensors, expected none")
            return self
        stage = self._calibrated.calibrated(tensors)
        made = type(self)(width=self._width, calibrated=stage, narrowing=self._rest, rounding=self._rounding)
        made._ready = True
        return made

    def plain(self) -> "Pipeline":
        """int8 for a codec that is calibrated, else this one."""
        if self._calibrated is None:
            return self
        return Pipeline(width=self._width, calibrated=None, narrowing=(), rounding=Int8Rounding(self._width))

    def layout(self, tokens: int) -> list[Layout]:
        """Side tensors of the narrowing stages, then the rounding stage's; each has `tokens` rows."""
        sides = [layout for stage in self._narrowing for layout in stage.side_layout(tokens)]
        return sides + self._rounding.layout(tokens)

    @torch.no_grad()
    def encode(self, values: torch.Tensor) -> list[torch.Tensor]:
        """`values` (tokens, width) float32, as the tensors of `layout`. Raises NotFiniteError for NaN or infinity."""
        self._check_ready()
        sides: list[torch.Tensor] = []
        for stage in self._narrowing:
            values, side = stage.narrow(values)
            sides += side
        if not all_finite(values):  # every stage keeps what is not finite, so one look is enough
            raise NotFiniteError("holds NaN or infinity")
        return sides + self._rounding.encode(values)

    @torch.no_grad()
    def decode(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """What `encode` gave, as (tokens, width) float32. Raises MalformedError for what `encode` never gives."""
        self._check_ready()
        counts = [len(stage.side_layout(1)) for stage in self._narrowing]
        values = self._rounding.decode(parts[sum(counts) :])
        for index in reversed(range(len(counts))):
            first = sum(counts[:index])
            values = self._narrowing[index].widen(values, parts[first : first + counts[index]])
        if self._narrowing and not all_finite(values):
            raise MalformedError("holds NaN or infinity once decoded")
        return values

    @torch.no_grad()
    def pullback(self, gradient: torch.Tensor) -> torch.Tensor:
        """The calibrated stage's; all others are straight-through."""
        self._check_ready()
        return gradient if self._calibrated is None else self._calibrated.pullback(gradient)

    def _check_ready(self) -> None:
        if not self._ready:
            raise MalformedError(f"{self.text}: has no calibration yet; until then values travel in its plain form")
