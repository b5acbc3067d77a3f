"""A file of keys and certificates changes from whole to whole, whoever reads it meanwhile and whatever goes wrong."""

import errno
import os

import pytest

from elsa.errors import InputError
from services.pki import files
from services.pki.files import replace

OLD, NEW = b"old" * 1000, b"new" * 2000


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "crl.pem"
    replace(path, OLD)
    return path


def test_who_has_begun_to_read_reads_the_file_of_before_whole(path):
    with path.open("rb") as reader:
        begun = reader.read(1)
        replace(path, NEW)
        assert begun + reader.read() == OLD
    assert path.read_bytes() == NEW


def test_a_file_has_its_name_once_it_is_on_the_disk_and_not_before(path, monkeypatch):
    seen = []
    real = os.fsync

    def looking(opened):
        seen.append((path.read_bytes(), os.fstat(opened).st_size))
        real(opened)

    monkeypatch.setattr(files.os, "fsync", looking)
    replace(path, NEW)
    assert seen[0] == (OLD, len(NEW))
    assert path.read_bytes() == NEW


def test_a_disk_that_is_full_leaves_the_file_of_before_and_nothing_else(path, monkeypatch):
    def full(opened):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        replace(path, NEW)
    assert path.read_bytes() == OLD
    assert list(path.parent.iterdir()) == [path]
