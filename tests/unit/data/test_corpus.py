"""The corpus reads like language, gives nothing away, and is built once."""

import re
import time
from collections import Counter
from pathlib import Path

import pytest

from elsa.data import corpus as module
from elsa.data.corpus import LABELS, build, corpus, default_cache
from elsa.data.docstrings import first_sentence, python_files, sentences
from elsa.data.source import read_rows
from elsa.errors import DataError


@pytest.fixture
def roots(tmp_path: Path) -> dict[str, Path]:
    """Two small libraries that share one sentence."""
    shared = 'def shared():\n    """Return what both of them have to say."""\n'
    for label, verb in (("one", "Open"), ("two", "Close")):
        for number, noun in enumerate(["door", "window", "gate", "lid"]):
            path = tmp_path / label / f"part{number}" / "code.py"
            path.parent.mkdir(parents=True)
            path.write_text(f'"""{verb} the {noun} for every guest."""\n{shared}')
        tests = tmp_path / label / "tests" / "test_code.py"
        tests.parent.mkdir()
        tests.write_text('"""Check that the guests are all inside."""\n')
    return {"one": tmp_path / "one", "two": tmp_path / "two"}


def test_sentences_are_distinct_shared_ones_are_dropped_and_tests_skipped(roots: dict[str, Path]) -> None:
    rows = build(roots, 10)
    assert sorted((row["label"], row["text"]) for row in rows) == sorted(
        (label, f"{verb} the {noun} for every guest.")
        for label, verb in (("one", "Open"), ("two", "Close"))
        for noun in ("door", "window", "gate", "lid")
    )


def test_the_sample_is_bounded_and_the_same_for_a_seed(roots: dict[str, Path]) -> None:
    assert Counter(row["label"] for row in build(roots, 3)) == {"one": 3, "two": 3}
    assert build(roots, 3, seed=1) == build(roots, 3, seed=1)
    assert build(roots, 10, seed=1) != build(roots, 10, seed=2)


def test_sentences_of_one_template_or_with_a_giveaway_count_once_or_never(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(
        '"""Configuration of the BertModel class here."""\n'
        'class A:\n    """Configuration of the T5Model class here."""\n'
        '    def f(self):\n        """Return a NumPy array of the values."""\n'
    )
    assert [row["text"] for row in build({"one": tmp_path}, 10)] == ["Configuration of the BertModel class here."]


def test_unreadable_and_generated_source_gives_nothing(tmp_path: Path) -> None:
    broken, generated = tmp_path / "broken.py", tmp_path / "generated.py"
    broken.write_text('"""A sentence before the broken code."""\ndef (')
    generated.write_text('# This file was automatically generated.\n"""A sentence in the generated code."""\n')
    assert list(sentences(broken)) == list(sentences(generated)) == []
    assert python_files(tmp_path) == [broken, generated]


def test_docstrings_attached_to_compiled_code_are_found(tmp_path: Path) -> None:
    path = tmp_path / "code.py"
    path.write_text(
        "add_newdoc('lib', 'sum', '''sum(a, b)\n\nAdd two numbers of any kind. More.''')\n"
        "add_newdoc('lib', 'Array', ('T', '''View of the transposed array.'''))\n"
        "if True:\n    def f():\n        '''Defined under some condition only.'''\n"
    )
    assert list(sentences(path)) == [
        "Add two numbers of any kind.",
        "View of the transposed array.",
        "Defined under some condition only.",
    ]


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Return the ``shape`` of an\n    array. And more.", "Return the shape of an array."),
        ("Fit a :class:`~lib.Model` to *all* the data [1]_.", "Fit a Model to all the data."),
        ("See [`Auto`](page) and `the guide <page>`_ for more.", "See Auto and the guide for more."),
        (
            "Handle all text, e.g. Greek letters, with some care. More.",
            "Handle all text, e.g. Greek letters, with some care.",
        ),
        ("No full stop at the end\n\nParameters", "No full stop at the end"),
        ("f(a, b) -> c\n\nAdd two numbers of any kind.", "Add two numbers of any kind."),
        ("Too short a text.", None),
        (" ".join(["word"] * 41), None),
        ("1 is not a letter to start with", None),
        (">>> code is not a sentence at all", None),
        ("Look at https://example.org for the rest of it", None),
        ("x (int, optional): the number of things to do", None),
        ("a_b c_d e_f g_h i_j k_l", None),
        ("The first of the following kinds:", None),
        ("", None),
    ],
)
def test_first_sentence_is_language_without_markup(docstring: str, sentence: str | None) -> None:
    assert first_sentence(docstring) == sentence


def test_the_installed_libraries_give_a_balanced_corpus_in_seconds(tmp_path: Path) -> None:
    start = time.process_time()
    rows = corpus(200, tmp_path)
    assert time.process_time() - start < 20
    assert Counter(row["label"] for row in rows) == dict.fromkeys(LABELS, 200)
    texts = [row["text"] for row in rows]
    assert len({text.casefold() for text in texts}) == len(texts)
    assert all(5 <= len(text.split()) <= 40 and text[0].isalpha() for text in texts)
    names = re.compile(r"\b(numpy|torch|sklearn|scikit-learn|transformers|scipy|python)\b", re.IGNORECASE)
    assert not any(names.search(text) for text in texts)
    start = time.process_time()
    assert corpus(200, tmp_path) == rows
    assert time.process_time() - start < 1
    assert corpus(100, tmp_path) != rows


@pytest.mark.parametrize("spoiled", [b"", b"\xff\xfe", b"{", b'{"text": "x", "label": "unknown"}\n', b'["text"]\n'])
def test_an_unreadable_cache_is_built_again(
    tmp_path: Path, roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch, spoiled: bytes
) -> None:
    small = {"stdlib": roots["one"], "numpy": roots["two"]}
    monkeypatch.setattr(module, "library_roots", lambda: small)
    rows = corpus(5, tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(spoiled)
    assert corpus(5, tmp_path / "cache") == rows
    assert path.read_bytes() != spoiled


def test_a_cache_that_cannot_be_written_costs_only_time(
    tmp_path: Path, roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "library_roots", lambda: {"stdlib": roots["one"]})
    (tmp_path / "file").write_text("x")
    assert len(corpus(5, tmp_path / "file")) == 5
    assert "not cached" in caplog.text


def test_builtin_is_a_source_and_the_cache_follows_the_environment(
    tmp_path: Path, roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "library_roots", lambda: {"stdlib": roots["one"]})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert default_cache() == tmp_path / "home" / "elsa"
    rows = list(read_rows("builtin"))
    assert [number for number, _ in rows] == [1, 2, 3, 4, 5]
    assert len(list((tmp_path / "home" / "elsa").iterdir())) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "elsa"


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LABELS", ("stdlib", "no_such_library"))
    with pytest.raises(DataError, match=r"needs the library no_such_library.*pip install 'elsa\[train\]'"):
        corpus()
