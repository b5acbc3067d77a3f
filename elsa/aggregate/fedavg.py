"""Federated averaging (McMahan et al., arXiv 1602.05629): the weighted mean of adapters, tensor by tensor.

Edges use it over their clients and the cloud over its edges, with training rows as weights.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from elsa.errors import MalformedError

Tensors = Mapping[str, NDArray[np.floating]]


def fedavg(updates: Mapping[str, tuple[float, Tensors]]) -> dict[str, NDArray[np.floating]]:
    """The mean of `updates` (contributor → weight, tensors), weighted by weight over the sum of weights.

    Sums run in float64 in order of the contributors' names, so the order of the mapping changes no bit of the
    result, and one contributor gives back its own bits. Tensors keep their shape and type.

    Raises:
        MalformedError: without contributors, for a weight that is not positive and finite, and for names, shapes
            or types that differ, naming contributor and tensor.
    """
    if not updates:
        raise MalformedError("updates: nothing to average; at least one contributor is needed")
    contributors = sorted(updates)
    shares = _shares({name: updates[name][0] for name in contributors})
    first = updates[contributors[0]][1]
    for name in contributors[1:]:
        _check_alike(name, updates[name][1], contributors[0], first)
    return {
        tensor: _mean([(shares[name], updates[name][1][tensor]) for name in contributors]) for tensor in sorted(first)
    }


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight > 0):
            raise MalformedError(f"weight of {name} is {weight}; it must be positive and finite")
    total = math.fsum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _mean(parts: list[tuple[float, NDArray[np.floating]]]) -> NDArray[np.floating]:
    share, tensor = parts[0]
    total = tensor.astype(np.float64) * share  # not from zeros: 0.0 + -0.0 would lose a sign
    for share, other in parts[1:]:
        total += other.astype(np.float64) * share
    return np.asarray(total).astype(tensor.dtype)


def _check_alike(name: str, tensors: Tensors, reference: str, expected: Tensors) -> None:
    if odd := sorted(set(tensors) ^ set(expected)):
        holder, other = (name, reference) if odd[0] in tensors else (reference, name)
        raise MalformedError(f"tensor {odd[0]} is in the update of {holder} but not in that of {other}")
    for key, tensor in expected.items():
        theirs = tensors[key]
        if theirs.shape != tensor.shape or theirs.dtype != tensor.dtype:
            raise MalformedError(
                f"tensor {key} of {name} is {theirs.dtype} {theirs.shape}, "
                f"that of {reference} {tensor.dtype} {tensor.shape}; all must be alike"
            )
