"""What every role does as a process: logging, its share of the cores, the ready file, an orderly end."""

import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from elsa.errors import InputError

log = logging.getLogger(__name__)


def set_up_logging(level: str = "INFO") -> None:
    """Log to standard error, one line a record."""
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S"
    )
    for noisy in ("httpx", "httpcore", "urllib3", "filelock", "fsspec", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def write_ready(path: Path | None, address: str) -> None:
    """Tell whoever started this process that it serves: JSON with its address and pid, written aside and renamed.

    Raises InputError if it cannot be written.
    """
    if path is None:
        return
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(json.dumps({"address": address, "pid": os.getpid()}))
        aside.replace(path)
    except OSError as error:
        raise InputError(f"--ready-file {path}: {error.strerror}; name a file in a folder that exists") from error


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set; Python as process 1 would otherwise ignore SIGTERM."""
    stop = threading.Event()

    def handle(number: int, _frame: object) -> None:
        log.info("%s: stopping", signal.Signals(number).name)
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return stop
