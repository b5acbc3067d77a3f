"""Whether this machine has a model, or can get it: the files, a configuration that is understood, and all tensors.

torch is needed to look into one; nothing is loaded, and nothing of a hub is downloaded.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from elsa.errors import CheckpointError, ElsaError
from elsa.plan.admission import sized
from elsa.spec import ModelSpec, RunSpec
from services.doctor.finding import Finding, Kind, Verdict, parted
from services.rpc.identity import Role

if TYPE_CHECKING:
    from elsa.model.weights import Checkpoint

WEIGHTS, CONFIG = ".safetensors", "config.json"
NEEDED = ("torch", "transformers")


@dataclass(frozen=True, kw_only=True)
class Model:
    """What was found, and the model if it is on this machine and can be used."""

    finding: Finding
    checkpoint: Checkpoint | None = None


def check_model(
    source: str,
    spec: RunSpec | None,
    role: Role,
    models: Mapping[str, str],
    timeout_s: float,
    *,
    lacking: Callable[[str], bool] = lambda name: importlib.util.find_spec(name) is None,
) -> Model:
    """Look at the model `source`, for the run of `spec` if one is given.

    Args:
        models: where this site has models, by the source that runs name.
    """
    absent = [name for name in NEEDED if lacking(name)]
    if role == "cloud":
        return Model(finding=_found("skipped", "a cloud holds no model"))
    if absent:
        what = f"{' and '.join(absent)} not installed, without which no model can be looked at"
        verdict: Verdict = "skipped" if role == "admin" else "bad"
        return Model(finding=_found(verdict, what, "" if verdict == "skipped" else "pip install 'elsa[train]'"))
    from elsa.model.weights import Checkpoint

    try:
        checkpoint = Checkpoint.open(source, download=False, models=models)
    except CheckpointError as error:
        return Model(finding=_elsewhere(source, role, error, timeout_s))
    except ElsaError as error:
        return Model(finding=_refused(error))
    except OSError as error:  # a folder that may not be entered
        return Model(finding=_unread(source, error))
    try:
        blocks, tensors = _whole(checkpoint, spec)
    except ElsaError as error:
        return Model(finding=_refused(error))
    except OSError as error:
        return Model(finding=_unread(source, error))
    what = f"{source} is here ({checkpoint.architecture.model_type}, {blocks} blocks, {tensors} tensors)"
    return Model(finding=_found("good", what), checkpoint=checkpoint)


def _whole(checkpoint: Checkpoint, spec: RunSpec | None) -> tuple[int, int]:
    """Blocks and tensors of a model of which every tensor that a run reads is there. Raises ElsaError."""
    from elsa.model.carving import owned_tensors

    asked, labels = spec.model if spec else ModelSpec(), len(spec.data.labels) if spec else 2
    checkpoint.tokenizer()
    if spec is not None:
        checkpoint.check_length(asked.max_tokens, asked.task, labels)
    blocks = int(checkpoint.config(asked.task, labels).num_hidden_layers)
    names = owned_tensors(checkpoint, range(blocks), ends=True, task=asked.task, num_labels=labels)
    missing = [name for name in names if checkpoint.shape(name) is None]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of {len(names)} tensors are missing in {checkpoint.folder}, {missing[0]} first; "
            "download or save the model again"
        )
    return blocks, len(names)


def _elsewhere(source: str, role: Role, error: CheckpointError, timeout_s: float) -> Finding:
    """Of a model that is not on this machine: whether the hub has it, or a client's edge sends it."""
    text = str(error)
    if _is_hub_name(source) and "was not downloaded before" in text:
        try:
            files = _hub_files(source, timeout_s)
        except _hub_errors() as trouble:
            why = " ".join(str(trouble).split())[:160] or type(trouble).__name__
            text = f"{source} is not here, and the hub does not give it ({why})"
            remedy = "check the name, the network and HF_TOKEN, or put a folder here (--models on edges and clients)"
        else:
            if CONFIG in files and any(name.endswith(WEIGHTS) for name in files):
                return _found("good", f"{source} is not here yet; the hub has it, {_size(files)} to download")
            text = f"{source} of the hub has no {CONFIG} with {WEIGHTS} weights"
            remedy = "choose a model that is saved as safetensors"
    else:
        text, remedy = parted(text)
    if role == "client":
        return _found("warn", f"{text}; its edge will send this client's part, which takes longer", remedy)
    return _found("warn" if role == "admin" else "bad", text, remedy)


def _hub_files(source: str, timeout_s: float) -> dict[str, int]:
    """Names and bytes of the files that the hub has."""
    from huggingface_hub import HfApi

    found = HfApi().model_info(source, timeout=timeout_s, files_metadata=True)
    return {file.rfilename: int(file.size or 0) for file in found.siblings or ()}


def _hub_errors() -> tuple[type[Exception], ...]:
    """What asking the hub may raise; its own error derives from its HTTP library's."""
    from huggingface_hub.errors import HfHubHTTPError

    bases: tuple[Any, ...] = HfHubHTTPError.__bases__
    return (*bases, OSError, ValueError)


def _size(files: Mapping[str, int]) -> str:
    total = sum(size for name, size in files.items() if name.endswith(WEIGHTS))
    return sized(total)


def _is_hub_name(source: str) -> bool:
    return source != "minilm" and not source.startswith(("/", ".", "~")) and source.count("/") <= 1


def _unread(source: str, error: OSError) -> Finding:
    remedy = f"let user {os.geteuid()} read it"
    return _found("bad", f"{error.filename or source} cannot be read ({error.strerror or error})", remedy)


def _refused(error: ElsaError) -> Finding:
    return _found("bad", *parted(error))


def _found(verdict: Verdict, what: str, remedy: str = "") -> Finding:
    return Finding(kind=Kind.MODEL, verdict=verdict, what=what, remedy=remedy)
