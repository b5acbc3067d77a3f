"""What a server says of itself with every call: its version and its time, as trailing metadata.

`elsa doctor` holds them against its own. Trailing metadata goes with what ends a call anyway; initial metadata would
be one more thing to send, a tenth of a millisecond, and gRPC makes no call again of which it has seen some.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

VERSION_KEY = "elsa-version"
TIME_KEY = "elsa-unix-ms"
DISTRIBUTION = "elsa"
UNKNOWN = "unknown"
"""The version of a copy that was not installed."""

Metadata = tuple[tuple[str, str], ...]


def own_version() -> str:
    """The version of this installation."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return UNKNOWN


class Introduction:
    """`Introduction()()`: the metadata of one call."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._version = own_version()

    def __call__(self) -> Metadata:
        """Version, and milliseconds since 1970 as the call comes."""
        return ((VERSION_KEY, self._version), (TIME_KEY, str(int(self._clock() * 1000))))


def introduced(metadata: Iterable[tuple[str, Any]] | None) -> Mapping[str, str]:
    """What a server said of itself, by key; nothing where it did not."""
    return {key: str(value) for key, value in metadata or () if key in (VERSION_KEY, TIME_KEY)}
