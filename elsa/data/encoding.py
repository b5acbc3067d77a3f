"""Tokenises examples: after `elsa.data.examples`, before `elsa.data.batches`. Needs a tokenizer, not torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from elsa.data.examples import Completion, Example, Labelled, RowReport
from elsa.errors import DataError
from elsa.spec import DataSpec, ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_LOSS = -100  # the label that cross-entropy leaves out


@dataclass(frozen=True, kw_only=True)
class EncodedRow:
    """One example as tokens. `types` is empty where the tokenizer has no token types."""

    ids: Sequence[int]
    types: Sequence[int] = ()
    labels: int | Sequence[int]  # classification: the label; causal-lm: one a token, NO_LOSS at the prompt


@dataclass(frozen=True, kw_only=True)
class EncodedData:
    """A client's examples as tokens, unpadded."""

    rows: Sequence[EncodedRow]
    pad_id: int

    def __len__(self) -> int:
        return len(self.rows)

    def by_length(self) -> "EncodedData":
        """The same rows, shortest first: evaluation in this order pads least."""
        return replace(self, rows=sorted(self.rows, key=lambda row: len(row.ids)))


def encode(
    examples: Sequence[Example],
    tokenizer: "PreTrainedTokenizerBase",
    model: ModelSpec,
    data: DataSpec,
    report: RowReport | None = None,
) -> tuple[EncodedData, RowReport]:
    """Tokenise `examples`; rows over `model.max_tokens` are cut or dropped as `data.long_rows` says, and counted.

    Classification uses the tokenizer's own special tokens; of a pair the longer text is cut. For causal-lm a row
    is the tokenizer's begin token where it sets one, the prompt, the response, and the end token where it fits;
    prompt and response are tokenised apart, as they are when the model later answers a prompt. A row whose prompt
    leaves no room for a token to learn is dropped as too long even where rows are cut; a row without a token to
    learn from counts as one without text.

    Args:
        report: the counts so far, to which these are added; by default they start from `examples`.

    Raises:
        DataError: examples of another task, max_tokens without room beside special tokens, or no row left.
    """
    judged = _classified if model.task == "classification" else _completed
    report = report or RowReport(rows=len(examples), used=len(examples))
    rows, report = _kept(judged(examples, tokenizer, model.max_tokens), data.long_rows == "drop", report)
    if not rows:
        raise DataError(
            f"no row is left of {len(examples)} after tokenising ({report}); "
            f"raise model.max_tokens (now {model.max_tokens}), or set data.long_rows to cut"
        )
    pad_id = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if isinstance(i, int)), 0)
    return EncodedData(rows=rows, pad_id=pad_id), report


_Judged = Iterable[tuple[EncodedRow, bool, bool]]  # the row cut to the limit, was it longer, can it teach


def _kept(judged: _Judged, drops_long: bool, report: RowReport) -> tuple[list[EncodedRow], RowReport]:
    """The rows that stay, and the report with what became of each added."""
    rows: list[EncodedRow] = []
    cut = dropped = empty = 0
    for row, long, learns in judged:
        if long and (drops_long or not learns):
            dropped += 1
        elif not learns:
            empty += 1
        else:
            cut += long
            rows.append(row)
    return rows, replace(
        report,
        used=report.used - dropped - empty,
        no_text=report.no_text + empty,
        too_long_cut=report.too_long_cut + cut,
        too_long_dropped=report.too_long_dropped + dropped,
    )


def _classified(examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase", limit: int) -> _Judged:
    labelled = [example for example in examples if isinstance(example, Labelled)]
    _same_task(examples, labelled, "classification")
    special = max(tokenizer.num_special_tokens_to_add(pair=example.pair is not None) for example in labelled[:1])
    if special >= limit:
        raise DataError(f"model.max_tokens {limit} leaves no room for text beside {special} special tokens; raise it")
    whole = _tokenised(labelled, tokenizer)
    long = [index for index, row in enumerate(whole) if len(row.ids) > limit]
    cut = dict(zip(long, _tokenised([labelled[index] for index in long], tokenizer, limit), strict=True))
    for index, row in enumerate(whole):
        yield cut.get(index, row), index in cut, len(row.ids) > special


def _tokenised(
    examples: Sequence[Labelled], tokenizer: "PreTrainedTokenizerBase", limit: int | None = None
) -> list[EncodedRow]:
    if not examples:
        return []
    pairs = [example.pair for example in examples if example.pair is not None]
    encoding = tokenizer(
        [example.text for example in examples],
        pairs or None,
        truncation=limit is not None,
        max_length=limit,
        verbose=False,
    )
    types = encoding.get("token_type_ids") or [()] * len(examples)
    return [
        EncodedRow(ids=ids, types=kinds, labels=example.label)
        for ids, kinds, example in zip(encoding["input_ids"], types, examples, strict=True)
    ]


def _completed(examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase", limit: int) -> _Judged:
    completions = [example for example in examples if isinstance(example, Completion)]
    _same_task(examples, completions, "causal-lm")
    begin = [tokenizer.bos_token_id] if tokenizer.bos_token_id in tokenizer("")["input_ids"] else []
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    prompts = _plain([example.prompt for example in completions], tokenizer)
    responses = _plain([example.response for example in completions], tokenizer)
    for prompt, response in zip(prompts, responses, strict=True):
        ids = [*begin, *prompt, *response]
        labels = [NO_LOSS] * (len(begin) + len(prompt)) + [*response, *end]
        row = EncodedRow(ids=[*ids, *end][:limit], labels=labels[:limit])
        learned = labels[1:limit]  # the first token has nothing before it to be told from
        yield row, len(ids) > limit, bool(response) and any(label != NO_LOSS for label in learned)


def _plain(texts: list[str], tokenizer: "PreTrainedTokenizerBase") -> list[list[int]]:
    """Token ids of each text without special tokens."""
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _same_task(examples: Sequence[Example], fitting: Sequence[Example], task: str) -> None:
    if not examples or len(fitting) < len(examples):
        raise DataError(
            f"{len(fitting)} of {len(examples)} examples were read for model.task {task}; "
            "read the rows again for this task"
        )
