"""What roles keep in the cache folder of whoever runs them, which all roles of a machine may share."""

import fcntl
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)


def user_cache() -> Path:
    """The platform's folder for what can be had again."""
    if sys.platform == "darwin":
        return Path("~/Library/Caches").expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Within it, no other role of this machine that keeps figures in `folder` measures.

    At the same time they would take each other for slow hardware. Where the folder cannot be written, they may.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "turn").open("ab")
    except OSError as error:
        log.warning("roles of this machine may measure at the same time: %s", error)
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
