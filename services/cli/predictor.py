"""An exported adapter in plain PEFT, as anyone would load it: on the whole base model, in this process."""

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from peft import PeftModel

from elsa.errors import CheckpointError, DataError
from elsa.model.export import Exported, load_folder
from elsa.model.weights import Checkpoint

BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A base model with its exported adapter, and the tokenizer that belongs to it."""

    about: Exported
    model: Any
    tokenizer: Any

    @classmethod
    def load(cls, folder: Path, base: str | None = None) -> "Predictor":
        """Load the adapter in `folder` on its base model, or on the model `base` instead.

        Raises:
            CheckpointError: if the folder, or the base model, is missing or they do not belong together.
        """
        about = load_folder(folder)
        try:
            checkpoint = Checkpoint.open(base or about.config.base)
        except CheckpointError as error:
            hint = "" if base else "; or name the base model by --model"
            raise CheckpointError(f"base model of {folder}: {error}{hint}") from error
        with quiet():
            model = _on_base(checkpoint, about, folder)
        return cls(about=about, model=model.eval(), tokenizer=checkpoint.tokenizer())

    def probabilities(self, texts: Sequence[str], workers: int = 1) -> npt.NDArray[np.float32]:
        """(texts, labels) probability of each label. Raises DataError for a blank text, or for another task."""
        self._check(texts, "classification")
        return in_batches(
            self.tokenizer,
            texts,
            self.about.max_tokens,
            lambda batch: self.model(**batch).logits.float().softmax(-1).numpy(),
            workers=workers,
        )

    def continuation(self, text: str, max_new_tokens: int) -> str:
        """What the model writes after `text`, the likeliest token at each place. Raises as `probabilities`."""
        self._check([text], "causal-lm")
        tokenizer = self.tokenizer
        begin = [tokenizer.bos_token_id] if tokenizer.bos_token_id in tokenizer("")["input_ids"] else []
        ids = torch.tensor([[*begin, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
        with torch.inference_mode(), quiet():
            made = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                use_cache=True,
                pad_token_id=tokenizer.pad_token_id,
            )
        return str(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))

    def _check(self, texts: Sequence[str], task: str) -> None:
        if self.about.config.task != task:
            raise DataError(f"this adapter is for {self.about.config.task}, not for {task}")
        if not all(text.strip() for text in texts):
            raise DataError("a text is blank; give texts with words in them")


def _on_base(checkpoint: Checkpoint, about: Exported, folder: Path) -> Any:
    task = about.config.task
    kinds = {
        "classification": transformers.AutoModelForSequenceClassification,
        "causal-lm": transformers.AutoModelForCausalLM,
    }
    config = checkpoint.config(task, len(about.labels))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            base = kinds[task].from_pretrained(checkpoint.folder, config=config, local_files_only=True)
            model = PeftModel.from_pretrained(base, folder)
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{folder} does not fit the base model {checkpoint.source} ({reason}); name its own by --model"
            ) from error
    if any("missing adapter keys" in str(warning.message) for warning in said):
        raise CheckpointError(
            f"{folder} lacks tensors of the base model {checkpoint.source}; name its own by --model"
        )
    return model


def in_batches(
    tokenizer: Any,
    texts: Sequence[str],
    max_tokens: int,
    work: Callable[[Any], npt.NDArray[np.float32]],
    *,
    workers: int = 1,
) -> npt.NDArray[np.float32]:
    """(texts, …) what `work` makes of each text, a batch of like lengths at a time, on `workers` threads.

    Threads of ours in place of torch's: those wait for each other, and a machine that is busy pays for it.
    """
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    parts = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    batches = [  # tokenised here, since a tokenizer may not be used by two threads
        tokenizer(
            [texts[index] for index in part],
            truncation=True,
            max_length=max_tokens,
            padding=True,
            return_tensors="pt",
        )
        for part in parts
    ]

    def inferred(batch: Any) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            return work(batch)

    with ThreadPoolExecutor(workers) as pool:
        found = np.concatenate(list(pool.map(inferred, batches)))
    result = np.empty_like(found)
    result[order] = found
    return result


class quiet:  # noqa: N801 - reads as a statement
    """Within it, transformers writes no progress bars and no advice; it is as it was afterwards."""

    def __enter__(self) -> None:
        self._level = transformers.logging.get_verbosity()
        self._bars = transformers.logging.is_progress_bar_enabled()
        transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]

    def __exit__(self, *raised: object) -> None:
        transformers.logging.set_verbosity(self._level)
        if self._bars:
            transformers.logging.enable_progress_bar()  # type: ignore[no-untyped-call]
