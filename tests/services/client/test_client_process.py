"""A client as a process: what it does before it does anything else."""

import threading

import pytest

from elsa.errors import DataError, UnreachableError
from services.client import service
from services.client.settings import ClientSettings


def test_a_client_keeps_little_memory_before_it_starts(monkeypatch):
    begun = []
    monkeypatch.setattr(service, "keep_little", lambda: begun.append("keeps little"))
    monkeypatch.setattr(service, "stop_on_signals", threading.Event)
    monkeypatch.setattr(service.Client, "start", lambda self: begun.append("starts") or _unreachable())
    with pytest.raises(UnreachableError):
        service.run(ClientSettings(name="ward-7", cloud="127.0.0.1:1"))
    assert begun == ["keeps little", "starts"]


def _unreachable():
    raise UnreachableError("nobody is there")


@pytest.mark.parametrize("given", ["nofile.jsonl", "picture.png"])
@pytest.mark.parametrize("setting", ["data", "heldout"])
def test_a_file_that_cannot_be_rows_is_told_before_anybody_is_asked(tmp_path, monkeypatch, setting, given):
    (tmp_path / "picture.png").write_bytes(b"")
    monkeypatch.setattr(service.Client, "start", lambda self: _unreachable())
    settings = ClientSettings(name="ward-7", cloud="127.0.0.1:1", **{setting: {"reviews": str(tmp_path / given)}})
    with pytest.raises(DataError, match=given):
        service.run(settings)
