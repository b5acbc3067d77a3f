"""Clients without a model of their own, whose edge is whatever stub they are given."""

import pytest
from base_harness import devices


@pytest.fixture
def new_device():
    """Makes devices; lets go of their caches at the end."""
    with devices() as make:
        yield make
