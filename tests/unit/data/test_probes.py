"""Probes: the project's own never change unseen, and a file of the user's is taken whole or refused by line."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.data.probes import FEWEST, MOST, MOST_BYTES, probes_sha256, public_probes, read_probes
from elsa.errors import DataError

SHA256_OF_VERSION_1 = "45039ecd0d553c19d130bac43e11792cc7a01b0354cd597fa400578152959f2c"
WORDS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=30)
PROBES = st.lists(WORDS.map(str.strip).filter(bool), min_size=FEWEST, max_size=20, unique=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mine.txt"


def lines_of(count: int) -> list[str]:
    return [f"Sentence number {number}." for number in range(count)]


def refusal_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_probes(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_public_probes_are_those_of_their_version():
    assert probes_sha256(public_probes()) == SHA256_OF_VERSION_1


def test_the_public_probes_are_many_distinct_sentences_of_different_length():
    probes = public_probes()
    lengths = [len(probe.split()) for probe in probes]
    assert len(set(probes)) == len(probes) == 128
    assert min(lengths) == 4 and 35 <= max(lengths) <= 40
    assert sum(probe.endswith("?") for probe in probes) >= 12
    assert all(probe == probe.strip() and probe.isascii() and probe.isprintable() for probe in probes)


def test_the_public_probes_would_do_as_a_users_file(file):
    file.write_text("\n".join(public_probes()))
    assert read_probes(file) == public_probes()


def test_the_digest_is_that_of_the_lines():
    assert probes_sha256(["a", "ü"]) == hashlib.sha256("a\nü\n".encode()).hexdigest()


@given(PROBES, PROBES)
def test_digests_are_equal_only_where_probes_are(one, other):
    assert (probes_sha256(one) == probes_sha256(other)) == (one == other)
    assert probes_sha256(one) != probes_sha256(one[::-1])


@pytest.mark.parametrize(
    ("before", "between", "after"),
    [("", "\n", ""), ("\ufeff", "\r\n", "\r\n"), ("", " \n\t", "\n"), ("\n", "\n \n", "\n\n")],
)
@given(probes=PROBES)
def test_reading_gives_what_was_written_in_its_order(tmp_path_factory, before, between, after, probes):
    path = tmp_path_factory.mktemp("probes") / "mine.txt"
    path.write_bytes((before + between.join(probes) + after).encode())
    assert read_probes(path) == tuple(probes)


@pytest.mark.parametrize("count", [FEWEST, MOST])
def test_a_number_of_probes_at_its_bound_is_taken(file, count):
    file.write_text("\n".join(lines_of(count)))
    assert len(read_probes(file)) == count


@pytest.mark.parametrize("count", [1, FEWEST - 1, MOST + 1])
def test_a_number_of_probes_past_its_bound_is_refused(file, count):
    file.write_text("\n".join(lines_of(count)))
    assert f"holds {count} probes; it needs {FEWEST} to {MOST}" in refusal_of(file)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "holds 0 probes; it needs 8 to 1024"),
        (b"\n \n", "holds 0 probes; it needs 8 to 1024"),
        (b"one\n\ntwo\none\n", "line 4: the same as line 1"),
        (b"one\ntwo\nthr\xffee\n", "line 3: not UTF-8"),
        (b"a" * (MOST_BYTES + 1), f"line 1: {MOST_BYTES + 1} bytes"),
        (b"a\n" * 10**6, "is larger than"),
    ],
)
def test_a_line_that_is_no_probe_is_refused_by_its_number(file, data, said):
    file.write_bytes(data)
    assert said in refusal_of(file)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    assert "cannot be read: No such file" in refusal_of(tmp_path / "none.txt")
    assert "cannot be read: Is a directory" in refusal_of(tmp_path)
