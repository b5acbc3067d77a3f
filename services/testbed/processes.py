"""Roles as child processes: started, waited for, watched and stopped, so that none is left behind and nothing hangs.

Each child is the first of a session of its own: Ctrl-C in the terminal reaches only the program that started it,
which then stops every child by its own process id.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from elsa.errors import RoleDiedError

LAST_LINES = 10
LOOK_S = 0.05  # between looks for a ready file; the death of the process ends the wait at once
CERTIFICATES = "ELSA_TLS_"
"""Begins the variables that name the certificate of whoever starts a testbed: no child is that person."""


@dataclass(frozen=True, kw_only=True)
class Role:
    """A child process and its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def death(self) -> RoleDiedError:
        """What to say of a role that ended by itself: its name, how it ended, and its last lines."""
        code = self.process.returncode
        how = f"with exit code {code}" if code is not None and code >= 0 else f"by signal {-(code or 0)}"
        return RoleDiedError(f"{self.name} ended by itself {how}; the end of {self.log}: {last_lines(self.log)}")


class Processes:
    """The children of one testbed. Leaving the context stops all of them.

    Args:
        logs: folder of the logs, one file a role.
        threads: threads of the compute kernels of each role.
        grace_s: what a role may take to end after SIGTERM; then it is killed.
        died: called, on a thread of its own, with the error of a role that ended by itself.
    """

    def __init__(
        self,
        logs: Path,
        *,
        threads: int = 1,
        grace_s: float = 10.0,
        died: Callable[[RoleDiedError], object] = lambda error: None,
    ) -> None:
        self._logs = logs
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(CERTIFICATES)}
        self._environment = {**inherited, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        self._grace_s = grace_s
        self._died = died
        self._roles: list[Role] = []
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> Role:
        """Start a role with a command of its own; what it writes goes to its log."""
        self._logs.mkdir(parents=True, exist_ok=True)
        path = self._logs / f"{name}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**self._environment, **(environment or {})},
                start_new_session=True,
            )
        role = Role(name=name, process=process, log=path)
        self._roles.append(role)
        threading.Thread(target=self._watch, args=(role,), name=f"watch-{name}", daemon=True).start()
        return role

    def wait_ready(self, role: Role, file: Path, timeout_s: float) -> str:
        """The address in the ready file that a role writes once it serves.

        Raises RoleDiedError if any role ends before, or if this one takes longer than `timeout_s`.
        """
        end = time.monotonic() + timeout_s
        while not file.is_file():
            self.check()
            if time.monotonic() > end:
                raise RoleDiedError(
                    f"{role.name} was not ready within {timeout_s:g} s; the end of {role.log}: {last_lines(role.log)}"
                )
            try:
                role.process.wait(LOOK_S)
            except subprocess.TimeoutExpired:
                continue
        return str(json.loads(file.read_text())["address"])

    def check(self) -> None:
        """Raise RoleDiedError if a role has ended by itself."""
        for role in self._roles:
            if role.process.poll() is not None and not self._stopping.is_set():
                raise role.death()

    def stop(self) -> None:
        """End all, the last started first: SIGTERM, and SIGKILL to those still there after the grace."""
        self._stopping.set()
        for role in reversed(self._roles):
            if role.process.poll() is None:
                role.process.terminate()
        end = time.monotonic() + self._grace_s
        for role in reversed(self._roles):
            try:
                role.process.wait(max(end - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                role.process.kill()
                role.process.wait()

    def _watch(self, role: Role) -> None:
        role.process.wait()
        if not self._stopping.is_set():
            self._died(role.death())


def elsa_command(*arguments: str) -> list[str]:
    """The command that runs `elsa` with these arguments in a process of its own."""
    return [sys.executable, "-m", "services.cli", *arguments]


def last_lines(log: Path, count: int = LAST_LINES) -> str:
    """The last lines of a log, joined on one line by ' | '."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "(no log)"
    return " | ".join(line.strip() for line in lines[-count:] if line.strip()) or "(empty)"
