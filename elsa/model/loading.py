"""Give a carved model its values: owned tensors from the checkpoint, new head modules from the seed."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from elsa.errors import CheckpointError
from elsa.model.held import held_type, put
from elsa.model.initial import initial_head
from elsa.model.stand_in import place
from elsa.model.weights import Checkpoint

_SPREAD = 0.02


def load(model: Any, checkpoint: Checkpoint, new: tuple[str, ...], seed: int, spread: float) -> None:
    """Give every parameter that is left its values as it is held, tie what is tied, freeze all.

    At most one tensor is there as it is stored, besides those that have been given away.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    ties, drawn = _ties(model), _drawn(parameters, new)
    stored = stored_parameters(model, new)
    for name in sorted(drawn):
        put(model, name, torch.from_numpy(initial_head(name, shapes[name], seed, spread)))
    by_type: dict[torch.dtype, list[str]] = {}
    for name in sorted(stored):
        by_type.setdefault(held_type(model, name), []).append(name)
    for name in by_type.pop(torch.int8, []):
        put(model, name, _checked(checkpoint, name, checkpoint.read([name])[name], shapes[name]))
    for held, names in by_type.items():
        for name, tensor in checkpoint.read(names, held).items():
            put(model, name, _checked(checkpoint, name, tensor, shapes[name]))
    _finish(model, ties, checkpoint)


def fill(model: Any, checkpoint: Checkpoint) -> None:
    """Give every parameter normal values, with deviation 0.02, as it is held; the checkpoint is not read."""
    draw, ties = torch.Generator().manual_seed(0), _ties(model)
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        if name not in ties:
            drawn = torch.float32 if held_type(model, name) is torch.int8 else held_type(model, name)
            put(model, name, torch.empty(parameter.shape, dtype=drawn).normal_(std=_SPREAD, generator=draw))
    _finish(model, ties, checkpoint)


def _checked(checkpoint: Checkpoint, name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if tensor.shape != shape:
        raise CheckpointError(
            f"tensor {name} of checkpoint {checkpoint.source} has shape {tuple(tensor.shape)} and its "
            f"config.json asks for {shape}; use files of one and the same model"
        )
    return tensor


def _finish(model: Any, ties: Mapping[str, str], checkpoint: Checkpoint) -> None:
    """Tie what is tied, and freeze all."""
    for name, source in ties.items():
        parent, last = place(model, name)
        parent._parameters[last] = model.get_parameter(source)
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise CheckpointError(f"tensor {name} was not loaded from {checkpoint.source}; report this model")
        parameter.requires_grad_(False)


def stored_parameters(model: Any, new: tuple[str, ...]) -> frozenset[str]:
    """Names of the parameters that come from a checkpoint: of tied ones the one that others follow, none drawn."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return frozenset(parameters - _ties(model).keys() - _drawn(parameters, new))


def _ties(model: Any) -> dict[str, str]:
    """Tied parameters, each with the one that it follows."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tied = model.get_expanded_tied_weights_keys(all_submodels=True)
    return {name: source for name, source in tied.items() if name in parameters}


def _drawn(parameters: Iterable[str], new: tuple[str, ...]) -> set[str]:
    """Those of the parameters that lie in new head modules."""
    return {name for name in parameters if name.startswith(tuple(f"{path}." for path in new))}
