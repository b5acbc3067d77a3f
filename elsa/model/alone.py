"""Building models one at a time.

While accelerate, transformers and PEFT build a model they patch torch for the whole process: parameters made then
land on `meta`, the default type changes. A model that another thread builds or changes then would be broken; one that
only gets its values, as `loading` gives them, would not.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_building = threading.RLock()  # of the whole process, as are the patches


def alone(build: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """`build`, which no other thread runs, nor anything else that is wrapped so, at the same time."""

    @wraps(build)
    def locked(*args: Parameters.args, **named: Parameters.kwargs) -> Result:
        with building():
            return build(*args, **named)

    return locked


@contextmanager
def building() -> Iterator[None]:
    """Within it, no other thread runs what is `alone`."""
    with _building:
        yield
