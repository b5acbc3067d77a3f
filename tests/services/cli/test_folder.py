"""An export is written whole or not at all, and only where it may be."""

import numpy as np
import pytest

from elsa.errors import CheckpointError, ChecksumError, InputError, MalformedError
from elsa.model.adapter_config import AdapterConfig
from elsa.model.export import export
from elsa.v1 import run_pb2 as pb
from elsa.wire.chunks import split_chunks
from services.cli.folder import receive_folder

CONFIG = AdapterConfig(rank=2, alpha=4, targets=("query",), modules_to_save=(), task="classification", base="minilm")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "adapter"
    export(folder, {"base_model.model.x": np.ones((2, 3), np.float32)}, CONFIG, labels=("a", "b"), max_tokens=8)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def messages(files):
    for name, data in files.items():
        yield pb.ExportAdapterResponse(file=pb.FileHeader(name=name, total_bytes=len(data)))
        for chunk in split_chunks(data, 100):
            yield pb.ExportAdapterResponse(chunk=chunk)


def read(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_sent_is_what_is_written_and_replaces_an_earlier_export(tmp_path, files):
    folder = tmp_path / "adapter"
    receive_folder(messages(files), folder)
    (folder / "left over").touch()
    receive_folder(messages(files), folder)
    assert read(folder) == files
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("name", ["../x", "/x", "", ".hidden", "a/b", "x" * 200])
def test_a_name_that_leaves_the_folder_is_refused(tmp_path, files, name):
    with pytest.raises(MalformedError, match=r"FileHeader\.name"):
        receive_folder(messages({name: b"data", **files}), tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", range(5))
def test_a_stream_that_ends_early_writes_nothing(tmp_path, files, left):
    with pytest.raises((MalformedError, CheckpointError)):
        receive_folder(list(messages(files))[:left], tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_altered_bytes_write_nothing(tmp_path, files):
    sent = list(messages(files))
    sent[1].chunk.data = b"!" + sent[1].chunk.data[1:]
    with pytest.raises(ChecksumError):
        receive_folder(sent, tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_refused_and_untouched(tmp_path, files):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InputError, match="is no exported adapter"):
        receive_folder(messages(files), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
