"""Running moments of tensors, from which a codec is calibrated."""

import torch


class Moments:
    """Count, mean and covariance of rows of `width` values, in double precision.

    Args:
        centred: whether the mean is taken off; gradients are taken as they are.
    """

    def __init__(self, width: int, *, centred: bool = True) -> None:
        self.width = width
        self.centred = centred
        self.count = 0
        self._sum = torch.zeros(width, dtype=torch.float64)
        self._squares = torch.zeros(width, width, dtype=torch.float64)

    def add(self, values: torch.Tensor) -> None:
        """Take (tokens, width) values."""
        self.count += len(values)
        self._sum += values.sum(0, dtype=torch.float64)
        self._squares += (values.T @ values).double()  # a float32 product: double would cost ten times as much

    @property
    def mean(self) -> torch.Tensor:
        """(width,) float64; zero where not centred or nothing has come."""
        return self._sum / max(self.count, 1) * self.centred

    @property
    def covariance(self) -> torch.Tensor:
        """(width, width) float64, symmetric."""
        mean = self.mean
        return self._squares / max(self.count, 1) - torch.outer(mean, mean)
