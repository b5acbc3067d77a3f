"""Rows that are kept: within their bounds, unchanged, and their room given back."""

import errno
import tempfile

import pytest
import torch

from elsa.codecs import parse_codec
from elsa.wire.codec.registry import codec_of
from elsa.wire.kept import KeptRows, Shelf

WIDTH = 8
INT8 = codec_of(parse_codec("int8"), WIDTH)
ROW = 3 * (WIDTH + 2)
"""Bytes of a row of three tokens."""


@pytest.fixture(autouse=True)
def _files(monkeypatch):
    """Close the files of all that a test keeps."""
    made, init = [], KeptRows.__init__

    def noted(self, shelf):
        init(self, shelf)
        made.append(self)

    monkeypatch.setattr(KeptRows, "__init__", noted)
    yield
    for kept in made:
        kept.clear()


def parts_of(seed, tokens=3):
    return INT8.encode(torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(seed)))


def put(kept, row, seed=None, tokens=3):
    return kept.put(row, parts_of(row if seed is None else seed, tokens), INT8)


def same(kept, row, seed=None, tokens=3):
    codec, parts = kept.get(row)
    want = parts_of(row if seed is None else seed, tokens)
    return codec is INT8 and all(torch.equal(one, other) for one, other in zip(parts, want, strict=True))


def test_rows_fill_memory_then_disk_then_nothing_and_come_back_the_same(tmp_path):
    shelf = Shelf(2 * ROW, 3 * ROW, tmp_path)
    kept = KeptRows(shelf)
    assert [put(kept, row) for row in range(7)] == [True] * 5 + [False] * 2
    assert (shelf.memory_bytes, shelf.disk_bytes) == (0, 0)
    assert len(kept) == 5 and 5 not in kept
    assert all(same(kept, row) for row in (4, 0, 3, 1, 2))
    assert all(kept.tokens(row) == 3 for row in range(5))
    assert list(tmp_path.iterdir()) == [], "the file has no name"


def test_bounds_are_of_all_who_share_a_shelf():
    shelf = Shelf(ROW, ROW)
    one, other = KeptRows(shelf), KeptRows(shelf)
    assert put(one, 0) and put(other, 0, seed=9)
    assert not put(one, 1) and not put(other, 1)
    assert same(one, 0) and same(other, 0, seed=9)
    one.clear()
    assert put(other, 1)


def test_clearing_gives_all_room_back_and_closes_the_file():
    shelf = Shelf(ROW, 4 * ROW)
    kept = KeptRows(shelf)
    for row in range(5):
        put(kept, row)
    file = kept._file
    kept.clear()
    assert (shelf.memory_bytes, shelf.disk_bytes) == (ROW, 4 * ROW)
    assert len(kept) == 0 and file.closed and kept._file is None
    assert [put(kept, row) for row in range(5)] == [True] * 5


def test_overwriting_a_row_on_disk_does_not_grow_the_file():
    shelf = Shelf(0, 2 * ROW)
    kept = KeptRows(shelf)
    for seed in range(20):
        assert put(kept, 0, seed) and put(kept, 1, seed + 100)
        assert same(kept, 0, seed) and same(kept, 1, seed + 100)
    assert kept._written == 2 * ROW and shelf.disk_bytes == 0


def test_a_place_on_disk_serves_another_row_of_its_size():
    kept = KeptRows(Shelf(0, 2 * ROW))
    assert put(kept, 0) and put(kept, 1) and not put(kept, 2)
    kept.drop(0)
    assert put(kept, 2) and same(kept, 2) and same(kept, 1)
    assert not put(kept, 3, tokens=2) or same(kept, 3, tokens=2)


def test_a_row_without_room_is_not_kept_as_it_was_before():
    kept = KeptRows(Shelf(ROW, 0))
    assert put(kept, 0)
    assert not put(kept, 0, seed=5, tokens=4)
    assert 0 not in kept
    assert put(kept, 1), "its room is free"


def test_what_is_kept_does_not_hold_its_batch():
    batch = parts_of(0, tokens=1000)
    kept = KeptRows(Shelf(10 * ROW, 0))
    kept.put(0, [part[:3] for part in batch], INT8)
    assert sum(part.untyped_storage().nbytes() for part in kept.get(0)[1]) == ROW


def test_nothing_is_kept_once_closed():
    shelf = Shelf(10 * ROW, 0)
    kept = KeptRows(shelf)
    put(kept, 0)
    kept.close()
    assert not put(kept, 1) and len(kept) == 0
    assert shelf.memory_bytes == 10 * ROW


def test_a_disk_that_is_full_keeps_nothing_and_says_so(monkeypatch, caplog):
    class Full:
        def seek(self, offset): ...

        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self): ...

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **given: Full())
    shelf = Shelf(0, 10 * ROW)
    kept = KeptRows(shelf)
    assert not put(kept, 0)
    assert 0 not in kept and shelf.disk_bytes == 10 * ROW
    assert "No space left" in caplog.text


@pytest.mark.parametrize("memory", [0, ROW])
def test_dropping_a_row_that_is_not_kept_changes_nothing(memory):
    shelf = Shelf(memory, ROW)
    kept = KeptRows(shelf)
    kept.drop(4)
    assert (shelf.memory_bytes, shelf.disk_bytes, len(kept)) == (memory, ROW, 0)
