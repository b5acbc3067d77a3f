"""Normalised averaging (FedNova: Wang et al., arXiv 2007.07481): adapters that took different numbers of steps.

In a plain mean a client counts twice that took twice the steps, so that rounds lead to the minimum of another
objective than the weighted sum that was asked for. Here each adapter's way from what all began from is divided by its
steps before the mean is taken, and the mean is gone for as many steps as were taken on average.

The paper divides by a number that depends on the optimizer; for plain gradient descent it is that of the steps, which
is what is used here. For AdamW, whose steps are about as long whatever the gradient, that is an approximation. What
clients drift within a round stays, as it does with equal steps: the minimum is met as far as steps are small. An
adapter of few steps among many is extrapolated, and its noise with it: a hundredfold at most.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from elsa.aggregate.fedavg import Tensors, fedavg
from elsa.errors import MalformedError

Mean = dict[str, NDArray[np.floating]]
Updates = Mapping[str, tuple[float, float, Tensors]]
"""By contributor: its weight, the steps that it took, and where those led."""
MOST_STRETCH = 100.0
"""Times that a contributor's way is made longer at most."""
_ROUNDED = 1 + 1e-6


def least_steps(most: float) -> float:
    """Steps that each needs, where nobody takes more than `most`, so that `fednova` refuses none of them."""
    return max(most / MOST_STRETCH, 1.0)


def averaged(before: Tensors, updates: Updates) -> tuple[Mean, float]:
    """`fednova` where steps are counted; where they are not, all of them 0, `fedavg`, and 0 steps.

    Raises MalformedError as those do.
    """
    if any(steps for _, steps, _ in updates.values()):
        return fednova(before, updates)
    return fedavg(_uncounted(updates)), 0.0


def fednova(before: Tensors, updates: Updates) -> tuple[Mean, float]:
    """What `updates` make of `before`, from which all of them began, and the steps that this counts for.

    With p a contributor's share of the weights, τ its steps and x its tensors, and x₀ for `before`:
    x₀ + τ' Σ p (x − x₀) / τ, where τ' = Σ p τ, which is returned with it. So an aggregate of aggregates is that of
    all contributors. With equal steps it is `fedavg`, bit by bit. The order of the mapping changes no bit of the
    result, and only the ratios of weights matter. Tensors keep their shape and type.

    Raises:
        MalformedError: as `fedavg`; for steps that are not positive and finite, for names, shapes or types that are
            not those of `before`, for steps that would be stretched more than `MOST_STRETCH`, and where the result
            leaves the range of its type, naming contributor or tensor.
    """
    for name, (_, steps, tensors) in updates.items():
        _check(name, steps, tensors, before)
    if len({steps for _, steps, _ in updates.values()}) <= 1:
        mean = fedavg(_uncounted(updates))
        return mean, next(steps for _, steps, _ in updates.values())
    weighted = {name: (weight, {"": np.array(steps, np.float64)}) for name, (weight, steps, _) in updates.items()}
    effective = float(fedavg(weighted)[""])
    for name, (_, steps, _) in updates.items():
        if effective > MOST_STRETCH * steps * _ROUNDED:
            raise MalformedError(
                f"steps of {name} are {steps:g}, {effective:g} are counted: its way would be stretched more than "
                f"{MOST_STRETCH:g} times"
            )
    return {key: _moved(key, before[key], updates, effective) for key in sorted(before)}, effective


def _moved(key: str, start: NDArray[np.floating], updates: Updates, effective: float) -> NDArray[np.floating]:
    """One tensor of `fednova`."""
    begin = start.astype(np.float64)
    ways = {
        name: (weight, {key: (tensors[key] - begin) / steps}) for name, (weight, steps, tensors) in updates.items()
    }
    with np.errstate(over="ignore"):  # refused below
        moved = np.asarray(begin + effective * fedavg(ways)[key]).astype(start.dtype)
    if not np.isfinite(moved).all():
        raise MalformedError(f"tensor {key}: leaves the range of {start.dtype} where steps are evened out")
    return moved


def _uncounted(updates: Updates) -> dict[str, tuple[float, Tensors]]:
    return {name: (weight, tensors) for name, (weight, _, tensors) in updates.items()}


def _check(name: str, steps: float, tensors: Tensors, before: Tensors) -> None:
    if not (math.isfinite(steps) and steps > 0):
        raise MalformedError(f"steps of {name} are {steps}; they must be positive and finite")
    if odd := sorted(tensors.keys() ^ before.keys()):
        holder, other = f"the update of {name}", "what it began from"
        holder, other = (holder, other) if odd[0] in tensors else (other, holder)
        raise MalformedError(f"tensor {odd[0]} is in {holder} but not in {other}")
    for key, start in before.items():
        if tensors[key].shape != start.shape or tensors[key].dtype != start.dtype:
            raise MalformedError(
                f"tensor {key} of {name} is {tensors[key].dtype} {tensors[key].shape}, that of what it began from "
                f"{start.dtype} {start.shape}; all must be alike"
            )
