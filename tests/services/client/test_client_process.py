"""A client as a process: what it does before it does anything else."""

import threading

import pytest

from elsa.errors import UnreachableError
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
