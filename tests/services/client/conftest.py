"""Clients without a model of their own, whose edge is whatever stub they are given."""

from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from base_harness import Device


def stay(device):
    """Stands for a stay at an edge."""
    return SimpleNamespace(stubs=lambda: (device.stub, None), peer="edge one", end=lambda: None)


@pytest.fixture
def new_device(monkeypatch):
    """Makes devices; lets go of their caches at the end."""
    monkeypatch.setattr("services.client.base.Stay", stay)
    with ExitStack() as stack:

        def make(*args, **given):
            device = Device(*args, **given)
            stack.callback(device.base.close)
            return device

        yield make
