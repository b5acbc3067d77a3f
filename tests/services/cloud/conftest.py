"""Databases to run the cloud on, and where an authority for tests is found."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "rpc"))  # certificates.py

from postgres_harness import postgres, why_not


@pytest.fixture(scope="session")
def postgres_server():
    """A PostgreSQL of these tests' own; skips where none can be started."""
    if reason := why_not():
        pytest.skip(reason)
    with postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server, request):
    """An empty database."""
    return postgres_server.url(f"t{abs(hash(request.node.nodeid))}")
