"""Count sketch (Charikar, Chen, Farach-Colton 2002) of a token's values less their mean, turned back in two ways."""

from collections.abc import Sequence
from typing import Self

import torch

from elsa.wire.codec.calibration import checked, finite_moments, half
from elsa.wire.codec.hashes import Hashing
from elsa.wire.codec.moments import Moments
from elsa.wire.tensor import Layout

RIDGE = 1e-3
"""Variance that mmse decoding grants a bucket's error, as a share of a bucket's mean variance."""


class _CountSketch:
    """What both ways of turning back share: the sketch itself."""

    def __init__(self, hashing: Hashing, text: str) -> None:
        self.text = text
        self.columns = hashing.columns
        self._hashing = hashing
        self._mean = torch.zeros(0)

    def side_layout(self, tokens: int) -> list[Layout]:
        """Nothing travels beside the buckets."""
        return []

    def narrow(self, values: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Buckets (tokens, rows x buckets), row by row."""
        return self._hashing.sketch(values - self._mean), []


class MedianSketch(_CountSketch):
    """Turned back by the median of the rows' estimates: for an even number of rows, the mean of the middle two.

    Each row's estimate is unbiased over seeds; its error is the other columns of the same bucket. The median is not
    linear, so the gradient is straight-through: that of the identity.
    """

    def calibration_layout(self) -> list[Layout]:
        """Mean (width,), half precision."""
        return [Layout(dtype=torch.float16, shape=(self._hashing.width,))]

    def fit(self, moments: Moments) -> list[torch.Tensor]:
        """The mean. Raises NotFiniteError for moments that are not finite."""
        return [half(finite_moments(moments).mean)]

    def calibrated(self, tensors: Sequence[torch.Tensor]) -> Self:
        """This stage under a mean. Raises MalformedError for another shape, or not finite."""
        stage = type(self)(self._hashing, self.text)
        (stage._mean,) = checked(tensors, self.calibration_layout(), self.text)
        return stage

    def widen(self, values: torch.Tensor, side: Sequence[torch.Tensor]) -> torch.Tensor:
        """Mean + median of the estimates."""
        return median(self._hashing.estimates(values)).add_(self._mean)

    def pullback(self, gradient: torch.Tensor) -> torch.Tensor:
        """`gradient` itself."""
        return gradient


class MmseSketch(_CountSketch):
    """Turned back by the linear estimate of least mean square error: mean + buckets @ decoder.

    With S the sketch, (width, buckets), and C the covariance, the decoder is (S'CS + λI)^-1 S'C: the sender computes
    it, so that the receiver needs no covariance. λ is 0.001 of the mean of the diagonal of S'CS.
    """

    def __init__(self, hashing: Hashing, text: str) -> None:
        super().__init__(hashing, text)
        self._decoder = torch.zeros(0)

    def calibration_layout(self) -> list[Layout]:
        """Mean (width,) and decoder (rows x buckets, width), half precision."""
        width = self._hashing.width
        return [
            Layout(dtype=torch.float16, shape=(width,)),
            Layout(dtype=torch.float16, shape=(self.columns, width)),
        ]

    def fit(self, moments: Moments) -> list[torch.Tensor]:
        """Mean and decoder. Raises NotFiniteError for moments that are not finite."""
        covariance = finite_moments(moments).covariance
        covariance = covariance / covariance.trace().clamp_min(torch.finfo().tiny)
        crossed = self._hashing.sketch(covariance).T  # S'C, (columns, width)
        inside = self._hashing.sketch(crossed)
        ridge = RIDGE * inside.diagonal().mean() + torch.finfo().tiny
        inside.diagonal().add_(ridge)
        return [half(moments.mean), half(torch.linalg.solve(inside, crossed))]

    def calibrated(self, tensors: Sequence[torch.Tensor]) -> Self:
        """This stage under a mean and a decoder. Raises MalformedError for other shapes, or not finite."""
        stage = type(self)(self._hashing, self.text)
        stage._mean, stage._decoder = checked(tensors, self.calibration_layout(), self.text)
        return stage

    def widen(self, values: torch.Tensor, side: Sequence[torch.Tensor]) -> torch.Tensor:
        """Mean + buckets @ decoder."""
        return torch.addmm(self._mean, values, self._decoder)

    def pullback(self, gradient: torch.Tensor) -> torch.Tensor:
        """`gradient` through the transpose of the linear map from values to values."""
        return self._hashing.transposed(gradient @ self._decoder.T)


def median(estimates: torch.Tensor) -> torch.Tensor:
    """Median over dimension 1 of (tokens, rows, width), by an odd-even network: ten times as fast as a sort."""
    rows = list(estimates.unbind(1))
    for turn in range(len(rows)):
        for low in range(turn % 2, len(rows) - 1, 2):
            pair = rows[low], rows[low + 1]
            rows[low], rows[low + 1] = torch.minimum(*pair), torch.maximum(*pair)
    middle = len(rows) // 2
    return rows[middle] if len(rows) % 2 else (rows[middle - 1] + rows[middle]) / 2
