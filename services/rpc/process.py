"""What every role does as a process: logging, its share of the cores, the ready file, an orderly end."""

import importlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from elsa.errors import ElsaError, InputError

log = logging.getLogger(__name__)

SPINS = "30000"
"""How long an idle compute thread spins before it sleeps: GNU OpenMP's default keeps a core busy for milliseconds,
which a peer on the same machine needs at just that time (docs/log.md)."""

LARGE_PAGES = "1"
"""Whether torch asks the system for large pages for large tensors. A client gets new memory for each of them,
which in pages of 4 KiB took a tenth of what it computes in a step (docs/log.md)."""


GRPC_VERBOSITY = "NONE"
"""Which lines of its own gRPC writes to standard error: what they say of a port or a handshake our errors say."""


def main(module: str, load: Callable[[], Any]) -> int:
    """`run_role` with the settings that `load` gives; the exit status: 2 for what an owner can set right, else 1."""
    quiet_grpc()
    try:
        run_role(module, load())
    except ElsaError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2 if isinstance(error, InputError) else 1
    return 0


def run_role(module: str, settings: Any) -> None:
    """Run the role whose `run` is in `module` until it is told to stop. Raises what it raises.

    The module is loaded here, and torch with it.
    """
    set_up_logging()
    exit_on_signals()
    threads = getattr(settings, "threads", None)
    if threads is not None:
        compute_on(threads)
    importlib.import_module(module).run(settings)


def compute_on(threads: int) -> None:
    """Say in the environment how compute kernels are to work; they read it as torch is loaded, so before that."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", LARGE_PAGES)


def quiet_grpc() -> None:
    """Have gRPC write no lines of its own, unless the environment says otherwise; it reads that as it is imported."""
    os.environ.setdefault("GRPC_VERBOSITY", GRPC_VERBOSITY)


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


def exit_on_signals() -> None:
    """End this process with status 0 at SIGTERM or SIGINT, until `stop_on_signals`: nothing has begun yet."""

    def handle(number: int, _frame: object) -> None:
        log.info("%s: stopped before anything was begun", signal.Signals(number).name)
        sys.exit(0)

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set; Python as process 1 would otherwise ignore SIGTERM."""
    stop = threading.Event()

    def handle(number: int, _frame: object) -> None:
        log.info("%s: stopping", signal.Signals(number).name)
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return stop
