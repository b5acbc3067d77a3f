"""A name for the frozen base of a run as one machine has it, by which two machines find out that theirs differ.

The same for a model in one file or in shards, of the bare or of the task model, with stored values of any type that
are the same once they are held in the run's. Of a large tensor a sample is read, so that it takes no longer for a
large model than for a small one: another model, revision or fine-tuned copy differs nearly everywhere and is found;
single values that differ elsewhere are not. Of a configuration all counts but what is known to be of no account: what
is new there makes another base, which is told of, rather than one that seems the same and computes otherwise.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from math import prod
from typing import Any

import torch

from elsa.errors import CheckpointError
from elsa.model.carving import owned_tensors
from elsa.model.raw import Place, RawTensor, raw_tensors
from elsa.model.weights import Checkpoint
from elsa.spec import BaseDtype, Task
from elsa.wire.manifest import DTYPES, ITEM_BYTES
from elsa.wire.tensor import DTYPES as WIRE_DTYPES

log = logging.getLogger(__name__)

RUNS, RUN = 16, 64
"""Of a tensor with more than RUNS x RUN elements: so many runs, of so many elements, at even distances."""

_UNTOLD = frozenset(
    {
        "architectures",
        "attn_implementation",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "tokenizer_class",
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "finetuning_task",
        "task_specific_params",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "sep_token_id",
        "use_cache",
        "return_dict",
        "output_attentions",
        "output_hidden_states",
        "gradient_checkpointing",
    }
)
"""What a configuration says that does not change what a run computes of blocks; nor does what begins with "_"."""

_TORCH = {number: dtype for dtype, number in WIRE_DTYPES.items()}


def base_digest(checkpoint: Checkpoint, base: BaseDtype, task: Task, num_labels: int = 0) -> str:
    """SHA-256, in hexadecimal, over what a run loads of a model: names, shapes, sampled values, and the arithmetic.

    Args:
        base: in what the run holds frozen weights: values that differ only as stored are the same there.

    Returns an empty string, which the log explains, where a tensor is not there or of a type that is not known: such
    a folder serves the parts of a model that it has.

    Raises ModelError as `owned_tensors`, CheckpointError for files that cannot be read.
    """
    config = checkpoint.config(task, num_labels)
    names = owned_tensors(checkpoint, range(config.num_hidden_layers), ends=True, task=task, num_labels=num_labels)
    try:
        tensors = raw_tensors(checkpoint, names)
    except CheckpointError as error:
        log.warning("the base %s is not compared with that of other machines: %s", checkpoint.source, error)
        return ""
    held = torch.bfloat16 if base == "bfloat16" else torch.float32
    total = hashlib.sha256(f"elsa base 2\n{held}\n{_arithmetic(checkpoint, config)}\n".encode())
    for tensor in tensors:
        total.update(f"{tensor.name}\n{'x'.join(map(str, tensor.shape))}\n".encode())
        for sample in _samples(tensor):
            total.update(sample.to(held).contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _arithmetic(checkpoint: Checkpoint, config: Any) -> str:
    """All that a configuration says of how to compute, but what its family has so anyway.

    That a release of transformers has a field more, which does nothing unless it is set, makes no other base.
    """
    usual = type(config)().to_dict()
    told = {
        name: value
        for name, value in config.to_dict().items()
        if name not in _UNTOLD and not name.startswith("_") and (name not in usual or value != usual[name])
    }
    told["model_type"] = config.model_type
    if checkpoint.architecture.positions == "after padding":
        told["pad_token_id"] = config.pad_token_id
    return json.dumps(told, sort_keys=True, default=str)


def _samples(tensor: RawTensor) -> Iterator[torch.Tensor]:
    """Runs of a tensor's elements as stored, in order; all of a small one."""
    elements, item = prod(tensor.shape), ITEM_BYTES[tensor.dtype]
    if elements <= RUNS * RUN:
        places = [(0, elements)]
    else:
        places = [(index * (elements - RUN) // (RUNS - 1), RUN) for index in range(RUNS)]
    for begin, count in places:
        place = Place(file=tensor.place.file, begin=tensor.place.begin + begin * item, size_bytes=count * item)
        data = bytearray(b"".join(place.pieces(0, place.size_bytes)))
        yield torch.frombuffer(data, dtype=_TORCH[DTYPES[tensor.dtype]])
