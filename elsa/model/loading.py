"""Give a carved model its values: owned tensors from the checkpoint, new head modules from the seed."""

from collections.abc import Iterable
from typing import Any

import torch

from elsa.errors import CheckpointError
from elsa.model.initial import initial_head
from elsa.model.stand_in import place
from elsa.model.weights import Checkpoint


def load(
    model: Any, checkpoint: Checkpoint, new: tuple[str, ...], dtype: torch.dtype, seed: int, spread: float
) -> None:
    """Give every parameter that is left its values, tie what is tied, freeze all."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    ties = _ties(model)
    drawn = _drawn(parameters, new)
    state = checkpoint.read(stored_parameters(model, new), dtype)
    for name in drawn:
        values = initial_head(name, tuple(parameters[name].shape), seed, spread)
        state[name] = torch.from_numpy(values).to(dtype)
    for name, tensor in state.items():
        if tensor.shape != parameters[name].shape:
            raise CheckpointError(
                f"tensor {name} of checkpoint {checkpoint.source} has shape {tuple(tensor.shape)} and its "
                f"config.json asks for {tuple(parameters[name].shape)}; use files of one and the same model"
            )
    model.load_state_dict(state, strict=False, assign=True)
    for name, source in ties.items():
        parent, last = place(model, name)
        setattr(parent, last, model.get_parameter(source))
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
