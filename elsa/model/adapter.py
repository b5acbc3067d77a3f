"""Adapters on a segment: PEFT's own LoRA layers, read and written under the names that PEFT saves.

An adapter is a set of float32 arrays of the whole model; each segment holds the part that it owns. An edge
has one adapter a session on one base. All of them keep `requires_grad`: gradients go where the forward ran,
so `select` only says which adapter the next forward uses, and a backward needs no selection.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer, cast_adapter_dtype
from peft.utils import ModulesToSaveWrapper
from torch import nn

from elsa.errors import MalformedError, ModelError, NotFoundError
from elsa.model.adapter_config import AdapterConfig
from elsa.model.alone import alone
from elsa.model.architecture import PEFT_PREFIX, bottom_names, trunk_names
from elsa.model.bare import strip
from elsa.model.initial import Array, initial_head, initial_lora
from elsa.model.segment import Segment
from elsa.model.skeleton import Skeleton, head_modules, skeleton
from elsa.model.weights import Checkpoint
from elsa.spec import LoraSpec, Split, Task


@dataclass(kw_only=True)
class Attached:
    """The adapters of one segment."""

    tuner: Any
    """PEFT's LoraModel, which changed the segment's model in place."""
    layers: list[Any]
    """PEFT's layers and head wrappers, each of which runs its active adapter."""
    tensors: dict[str, dict[str, nn.Parameter]] = field(default_factory=dict)
    """Parameters of each adapter, by PEFT's saved names."""
    inner: dict[str, str] = field(default_factory=dict)
    """PEFT's name of each adapter: ours may have dots or clash with a module's name."""
    made: int = 0
    names: frozenset[str] = frozenset()


def adapter_config(checkpoint: Checkpoint, lora: LoraSpec, task: Task, num_labels: int = 0) -> AdapterConfig:
    """The adapter that a run trains: query and value projections by default, and the classification head.

    Raises:
        ModelError: if a target is no projection of the model's blocks.
    """
    bones = skeleton(checkpoint, task, num_labels)
    targets = lora.targets or bones.architecture.targets
    inside = {name.rpartition(".")[2]: module for name, module in bones.blocks[0].named_modules()}
    projections = {name for name, module in inside.items() if getattr(module, "weight", None) is not None}
    projections = {name for name in projections if inside[name].weight.ndim == 2}
    for target in targets:
        if target not in projections:
            raise ModelError(
                f"lora.targets names {target!r}, which is no projection of a {bones.architecture.model_type} "
                f"block; choose among {', '.join(sorted(projections))}"
            )
    trained, _ = head_modules(bones, checkpoint)
    return AdapterConfig(
        rank=lora.rank,
        alpha=lora.alpha,
        targets=tuple(targets),
        modules_to_save=tuple(path.rpartition(".")[2] for path in trained),
        task=task,
        base=checkpoint.source,
        transposed=bones.architecture.transposed,
    )


@alone
def initial_adapter(checkpoint: Checkpoint, config: AdapterConfig, num_labels: int, seed: int) -> dict[str, Array]:
    """The whole model's adapter before training, float32, byte for byte the same on every machine.

    A is uniform, B zero; head modules come from the checkpoint where it has them, else from the seed. Only
    shapes and head tensors are read: the model is not allocated.
    """
    bones = skeleton(checkpoint, config.task, num_labels)
    _, new = head_modules(bones, checkpoint)
    fresh = tuple(f"{path}." for path in new)
    spread = bones.config.initializer_range
    values: dict[str, Array] = {}
    for saved, shape in _shapes(bones, config).items():
        name = saved.removeprefix(PEFT_PREFIX)
        if ".lora_" in name:
            values[saved] = initial_lora(saved, shape, seed)
        elif name.startswith(fresh):
            values[saved] = initial_head(name, shape, seed, spread)
        else:
            values[saved] = checkpoint.read([name], torch.float32)[name].numpy()
    return values


@alone
def shapes(checkpoint: Checkpoint, config: AdapterConfig, num_labels: int) -> dict[str, tuple[int, ...]]:
    """Of the tensors of the whole model's adapter, by PEFT's saved names; nothing is read or allocated."""
    return _shapes(skeleton(checkpoint, config.task, num_labels), config)


@alone
def attach(segment: Segment, config: AdapterConfig, name: str = "default") -> None:
    """Put a further adapter on the segment and select it; its values are PEFT's own until `write`.

    Raises:
        MalformedError: if an adapter of that name is there already.
    """
    attached = segment.attached
    lora = _lora_config(config, config.modules_to_save if segment.ends else ())
    if attached is None:
        inner = "adapter0"
        tuner = LoraModel(segment.model, lora, inner)
        attached = segment.attached = Attached(tuner=tuner, layers=_layers(segment.model))
    elif name in attached.tensors:
        raise MalformedError(f"adapter {name!r} is attached already; choose another name")
    else:
        inner = f"adapter{attached.made}"
        _activate(attached, [])
        attached.tuner.active_adapter = [inner]  # PEFT refuses to inject while none is active
        attached.tuner.peft_config[inner] = lora
        attached.tuner.inject_adapter(segment.model, inner)
    cast_adapter_dtype(segment.model, inner)  # float32 factors on a base of half precision
    attached.made += 1
    attached.inner[name] = inner
    attached.tensors[name] = _tensors(segment.model, attached.layers, inner)
    attached.names = frozenset(attached.tensors[name])
    for adapter in attached.tensors.values():
        for parameter in adapter.values():
            parameter.requires_grad_(True)
    select(segment, name)


def remove(segment: Segment, name: str) -> None:
    """Take an adapter off the segment, with its gradients; the others and their pending backwards are untouched.

    None is selected then. The last one is no different: blocks run without an adapter after it.

    Raises:
        NotFoundError: if it is not there.
    """
    _tensors_of(segment, name)
    attached = _attached(segment)
    _activate(attached, [])  # else PEFT would select another, which switches requires_grad
    attached.tuner.delete_adapter(attached.inner.pop(name))
    del attached.tensors[name]


def detach(segment: Segment) -> None:
    """Take all adapters off the segment: its modules are those that it had before the first was attached."""
    strip(segment.model)
    segment.attached = None


def select(segment: Segment, name: str = "default") -> None:
    """Make this adapter the one that forwards use; cheap. Raises NotFoundError if it is not there."""
    _tensors_of(segment, name)
    attached = _attached(segment)
    _activate(attached, [attached.inner[name]])


def read(segment: Segment, name: str = "default", split: Split | None = None) -> dict[str, Array]:
    """Copies of the adapter's owned tensors, float32, by PEFT's saved names; those of a split if given."""
    tensors = _tensors_of(segment, name)
    wanted = names(segment, split)
    return {
        saved: parameter.detach().to(torch.float32).numpy().copy()
        for saved, parameter in tensors.items()
        if saved in wanted
    }


def write(segment: Segment, tensors: Mapping[str, Array], name: str = "default", split: Split | None = None) -> None:
    """Copy values into the adapter in place; what the segment does not own is passed over.

    Raises:
        MalformedError: naming an owned tensor (of the split, if given) that is absent or of another shape;
            nothing is changed then.
        NotFoundError: if there is no such adapter.
    """
    owned = _tensors_of(segment, name)
    wanted = sorted(names(segment, split))
    for saved in wanted:
        if saved not in tensors:
            raise MalformedError(f"adapter lacks tensor {saved}; send every tensor of the segment")
        if tensors[saved].shape != tuple(owned[saved].shape):
            raise MalformedError(
                f"adapter tensor {saved} has shape {tensors[saved].shape}, expected {tuple(owned[saved].shape)}; "
                "use the run's own rank and labels"
            )
    with torch.no_grad():
        for saved in wanted:
            owned[saved].copy_(torch.from_numpy(np.array(tensors[saved], dtype=np.float32)))


def parameters(segment: Segment, name: str = "default", split: Split | None = None) -> list[nn.Parameter]:
    """The adapter's owned parameters, sorted by name; those of a split if given."""
    tensors = _tensors_of(segment, name)
    return [tensors[saved] for saved in sorted(names(segment, split))]


def top_parameters(segment: Segment, split: Split, name: str = "default") -> list[nn.Parameter]:
    """A client's parameters after the trunk: those of its top blocks and its head, sorted by name."""
    tensors = _tensors_of(segment, name)
    below = bottom_names(tensors, segment.architecture, split)
    return [tensors[saved] for saved in sorted(names(segment, split) - below)]


def names(segment: Segment, split: Split | None = None) -> frozenset[str]:
    """PEFT's saved names of what the segment owns of an adapter.

    With a split: for an edge those in the split's trunk, for the ends those outside it. Raises
    NotFoundError if no adapter was ever attached.
    """
    owned = _attached(segment).names
    if split is None:
        return owned
    trunk = trunk_names(owned, segment.architecture, split)
    return owned - trunk if segment.ends else trunk


def _shapes(bones: Skeleton, config: AdapterConfig) -> dict[str, tuple[int, ...]]:
    """As `shapes`; puts the adapter on the skeleton."""
    LoraModel(bones.model, _lora_config(config, config.modules_to_save), "default", low_cpu_mem_usage=True)
    tensors = _tensors(bones.model, _layers(bones.model), "default")
    return {saved: tuple(parameter.shape) for saved, parameter in tensors.items()}


def _lora_config(config: AdapterConfig, modules_to_save: tuple[str, ...]) -> LoraConfig:
    # No task type: PEFT would wrap a head of its own choice, also on a segment that has none.
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # PEFT divides it; a fraction is fine
        lora_dropout=0.0,
        target_modules=list(config.targets),
        modules_to_save=list(modules_to_save) or None,
        fan_in_fan_out=config.transposed,
        bias="none",
    )


def _layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper)]


def _tensors(model: nn.Module, layers: list[Any], inner: str) -> dict[str, nn.Parameter]:
    """Parameters of the adapter that PEFT calls `inner`, by the names that PEFT saves them under."""
    paths = {id(module): path for path, module in model.named_modules()}
    found: dict[str, nn.Parameter] = {}
    for layer in layers:
        path = PEFT_PREFIX + paths[id(layer)]
        if isinstance(layer, ModulesToSaveWrapper):
            for name, parameter in layer.modules_to_save[inner].named_parameters():
                found[f"{path}.{name}"] = parameter
        else:
            found[f"{path}.lora_A.weight"] = layer.lora_A[inner].weight
            found[f"{path}.lora_B.weight"] = layer.lora_B[inner].weight
    return found


def _activate(attached: Attached, inner: list[str]) -> None:
    # PEFT's set_adapter also walks the model and switches requires_grad, which a pending backward would miss.
    attached.tuner.active_adapter = inner
    for layer in attached.layers:
        layer._active_adapter = inner


def _attached(segment: Segment) -> Attached:
    if segment.attached is None:
        raise NotFoundError("the segment has no adapter; attach one first")
    return segment.attached


def _tensors_of(segment: Segment, name: str) -> dict[str, nn.Parameter]:
    tensors = _attached(segment).tensors
    if name not in tensors:
        raise NotFoundError(f"no adapter {name!r} on the segment; attached are {sorted(tensors) or 'none'}")
    return tensors[name]
