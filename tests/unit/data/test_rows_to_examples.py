"""No row disappears uncounted, and labels mean what the spec says."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.data.examples import Completion, Labelled, RowReport, label_index, read_examples, split_holdout
from elsa.errors import DataError
from elsa.spec import DataSpec

LABELS = ("cat", "dog")
SPEC = DataSpec(labels=LABELS)


def numbered(*rows: dict[str, object]) -> list[tuple[int, dict[str, object]]]:
    return list(enumerate(rows, start=1))


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "text": st.sampled_from(["a text", "", "  ", None, 3, ["list"]]),
                "label": st.sampled_from(["cat", "dog", "cow", 0, 1, 2, -1, None, "1", True, 0.5]),
            }
        )
    )
)
def test_every_row_is_counted_once(rows: list[dict[str, object]]) -> None:
    good = {"text": "good", "label": "cat"}
    examples, report = read_examples(numbered(good, *rows), SPEC, "classification")
    assert report.rows == len(rows) + 1
    assert report.used == len(examples)
    assert report.rows == report.used + report.no_text + report.unknown_label


def test_report_tells_the_first_unknown_label_and_its_row() -> None:
    rows = numbered({"text": "x", "label": "cat"}, {"text": " ", "label": "cat"}, {"text": "y", "label": "XYZ"})
    _, report = read_examples(rows, SPEC, "classification")
    assert str(report) == "3 rows: 1 used, 1 without text, 1 with unknown label (first: 'XYZ', row 3)"
    assert str(RowReport(rows=4, used=3, too_long_cut=2, too_long_dropped=1)) == (
        "4 rows: 3 used, 1 dropped as too long, 2 of the used cut as too long"
    )


@pytest.mark.parametrize(
    ("value", "labels", "index"),
    [
        ("dog", LABELS, 1),
        (" dog ", LABELS, 1),
        (1, LABELS, 1),
        ("1", LABELS, 1),
        (1.0, LABELS, 1),
        (True, LABELS, 1),
        (2, LABELS, None),
        (-1, LABELS, None),
        (0.5, LABELS, None),
        (float("nan"), LABELS, None),
        ("Dog", LABELS, None),
        (None, LABELS, None),
        ([1], LABELS, None),
        (1, ("1", "2", "3"), 0),  # labels that are numbers are names
        ("3", ("1", "2", "3"), 2),
        (0, ("1", "2", "3"), None),
    ],
)
def test_a_label_is_a_name_or_a_number(value: object, labels: tuple[str, ...], index: int | None) -> None:
    assert label_index(value, labels) == index


def test_pairs_need_both_texts() -> None:
    spec = DataSpec(labels=LABELS, pair="other")
    rows = numbered(
        {"text": "a", "other": "b", "label": 0}, {"text": "a", "other": "", "label": 0}, {"text": "a", "label": 0}
    )
    examples, report = read_examples(rows, spec, "classification")
    assert examples == [Labelled(text="a", pair="b", label=0)]
    assert report.no_text == 2


def test_causal_rows_are_prompt_and_response_or_plain_text() -> None:
    rows = numbered({"q": "why", "a": "so"}, {"q": None, "a": "blank prompt"}, {"q": "no answer", "a": ""})
    examples, report = read_examples(rows, DataSpec(prompt="q", response="a"), "causal-lm")
    assert examples == [Completion(prompt="why", response="so"), Completion(response="blank prompt")]
    assert report.no_text == 1
    plain, _ = read_examples(numbered({"text": "plain"}), DataSpec(), "causal-lm")
    assert plain == [Completion(response="plain")]


@pytest.mark.parametrize(
    ("rows", "spec", "told"),
    [
        ([], SPEC, "site.jsonl: holds no rows"),
        (
            [{"body": "x", "label": "cat"}],
            SPEC,
            "site.jsonl: no column 'text', which data.text names; the columns are 'body', 'label'",
        ),
        (
            [{"text": "x", "label": "cat"}],
            DataSpec(labels=LABELS, pair="q"),
            "no column 'q', which data.pair names; the columns are 'text', 'label'",
        ),
        (
            [{"text": "x", "label": "cow"}],
            SPEC,
            "no row can be used (1 rows: 0 used, 1 with unknown label (first: 'cow', row 1))",
        ),
    ],
)
def test_unusable_data_is_an_error(rows: list[dict[str, object]], spec: DataSpec, told: str) -> None:
    with pytest.raises(DataError) as caught:
        read_examples(numbered(*rows), spec, "classification", "site.jsonl")
    assert told in str(caught.value) and "\n" not in str(caught.value)


@given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 1000))
def test_holdout_keeps_every_row_once_in_order(count: int, share: float, seed: int) -> None:
    train, heldout = split_holdout(range(count), share, seed)
    assert sorted(train + heldout) == list(range(count))
    assert train == sorted(train) and heldout == sorted(heldout)
    assert train and heldout
    assert abs(len(heldout) - share * count) <= 1
    assert (train, heldout) == split_holdout(range(count), share, seed)


def test_holdout_differs_between_seeds_and_needs_two_rows() -> None:
    assert split_holdout(range(100), 0.2, 1) != split_holdout(range(100), 0.2, 2)
    assert split_holdout(range(100), 0.2, [1, 7]) != split_holdout(range(100), 0.2, [1, 8])
    with pytest.raises(DataError, match=r"1 usable row\(s\) cannot be split.* at least 2 are needed"):
        split_holdout(["only"], 0.2, 0)


def test_reading_needs_no_torch() -> None:
    modules = ", ".join(f"elsa.data.{name}" for name in ("source", "examples", "partition", "corpus", "encoding"))
    code = f"import sys, {modules}; sys.exit(bool({{'torch', 'transformers', 'datasets'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
