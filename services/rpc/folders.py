"""What roles keep in the cache folder of whoever runs them, which all roles of a machine may share."""

import fcntl
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

LONGEST_TURN_S = 60.0
PAUSE_S = 0.1

log = logging.getLogger(__name__)


def user_cache() -> Path:
    """The platform's folder for what can be had again."""
    if sys.platform == "darwin":
        return Path("~/Library/Caches").expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


@contextmanager
def turn(
    folder: Path,
    longest_s: float = LONGEST_TURN_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """Within it, no other role of this machine that keeps figures in `folder` measures.

    At the same time they would take each other for slow hardware. Where the folder cannot be written or locked, or
    another has not ended after `longest_s`, they may.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "turn").open("ab")
    except OSError as error:
        log.warning("roles of this machine may measure at the same time: %s", error)
        yield
        return
    with file:
        until = clock() + longest_s
        while not _locked(file):
            if clock() >= until:
                log.warning("another role of this machine has measured for %g s; this one does not wait", longest_s)
                break
            sleep(PAUSE_S)
        yield


def _locked(file: BinaryIO) -> bool:
    """Whether the file is locked now; or cannot be, which the log says."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.warning("roles of this machine may measure at the same time: %s", error)
    return True
