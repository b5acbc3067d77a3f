"""Limits of the kernel on a role: a quota of processor time and a bound on memory, by control groups (version 2).

They slow all that a role does, not its computing alone as a pace does, and the kernel ends a role that takes more
memory than it has. They need Linux with version 2 alone, and a group that this process may divide: as root, or
started by `systemd-run --user --scope -p Delegate=yes`. Containers often may not. Whoever asks is told why not, and
can fall back on `services.rpc.pace` and `max_memory_mib`.

Groups are made below the group of this process and removed at the end. No other group is changed, but that this one
may get its controllers passed down meanwhile, and keeps them passed down at the end if groups of others are below it,
such as another demo's, whose limits would go with them; the kernel asks then that it holds no process itself, so this
process, if it is alone there, waits in a group of its own below.
"""

import errno
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from elsa.errors import InputError, SpecError
from elsa.plan.hardware import control_groups

log = logging.getLogger(__name__)

CONTROLLERS = ("cpu", "memory")
QUOTA_US = 2000
"""Time that a role runs in one piece before it waits: short, so that short measurements meet the limit too."""
LEAST_US, MOST_PERIOD_US = 1000, 1_000_000
LEAST_CPUS, MOST_CPUS = LEAST_US / MOST_PERIOD_US, 4096
REMEDY = "start it with `systemd-run --user --scope -p Delegate=yes`, or choose --limits pace"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a role may use; None for as much as there is.

    Raises:
        SpecError: for less than the kernel can keep.
    """

    cpus: float | None = None
    """Seconds of processor time a second."""
    memory_bytes: int | None = None
    """What it allocates from now on: what it has already counts where it was before."""

    def __post_init__(self) -> None:
        if self.cpus is not None and not LEAST_CPUS <= self.cpus <= MOST_CPUS:
            raise SpecError(f"limit of {self.cpus:g} cpus: must be from {LEAST_CPUS:g} to {MOST_CPUS}")
        if self.memory_bytes is not None and self.memory_bytes < 1:
            raise SpecError(f"limit of {self.memory_bytes} bytes of memory: must be at least 1")

    def files(self) -> Iterator[tuple[str, str]]:
        """The files of a group that keep it, and what is written to them."""
        if self.cpus is not None:
            period_us = min(max(round(QUOTA_US / self.cpus), LEAST_US), MOST_PERIOD_US)
            yield "cpu.max", f"{max(round(self.cpus * period_us), LEAST_US)} {period_us}"
        if self.memory_bytes is not None:
            yield "memory.max", str(self.memory_bytes)


class Files(Protocol):
    """What is done with control groups; each raises OSError."""

    def read(self, file: Path) -> str: ...

    def write(self, file: Path, text: str) -> None: ...

    def below(self, group: Path) -> list[Path]: ...

    def make(self, group: Path) -> None: ...

    def remove(self, group: Path) -> None: ...


class KernelFiles:
    """The kernel's."""

    def read(self, file: Path) -> str:
        """What a file says."""
        return file.read_text()

    def write(self, file: Path, text: str) -> None:
        """Write in one call, as the kernel asks; the file is there or it is an error."""
        handle = os.open(file, os.O_WRONLY)
        try:
            os.write(handle, text.encode())
        finally:
            os.close(handle)

    def below(self, group: Path) -> list[Path]:
        """The groups right below one."""
        return [entry for entry in group.iterdir() if entry.is_dir()]

    def make(self, group: Path) -> None:
        """Make a group."""
        group.mkdir()

    def remove(self, group: Path) -> None:
        """Remove a group without processes."""
        group.rmdir()


class Groups:
    """Within its context, control groups of this process's own, one a limited role.

    Enter it before the roles start and leave it when they have ended.

    Args:
        own: folder of the group that this process is in; found if not given.
        files: how groups are changed.
        pid: of this process.
    """

    def __init__(self, own: Path | None = None, files: Files | None = None, pid: int | None = None) -> None:
        self._own = own or control_groups()[0]
        self._files = files or KernelFiles()
        self._pid = os.getpid() if pid is None else pid
        self._prefix = f"elsa-{self._pid}-"
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        """Make this process's group ready to be divided.

        Raises:
            InputError: if it may not be, with the reason; all is left as it was then.
        """
        with _told(self._own), ExitStack() as undo:
            self._check_controllers()
            self._pass_down(undo)
            undo.enter_context(self._made("here"))  # known to be allowed before anything starts; others see us by it
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._undo.close()

    def put(self, name: str, pid: int, limits: Limits) -> None:
        """Limit the process `pid` from now on, in a group of its own. Raises InputError."""
        with _told(self._own):
            group = self._undo.enter_context(self._made(name))
            for file, text in limits.files():
                self._files.write(group / file, text)
            self._files.write(group / "cgroup.procs", str(pid))

    def _check_controllers(self) -> None:
        try:
            there = self._files.read(self._own / "cgroup.controllers").split()
        except FileNotFoundError as error:
            raise InputError("this system has no control groups of version 2; choose --limits pace") from error
        missing = [name for name in CONTROLLERS if name not in there]
        if missing:
            raise InputError(f"the control group {self._own} has no controller {' nor '.join(missing)}; {REMEDY}")

    def _pass_down(self, undo: ExitStack) -> None:
        """Let groups below have the controllers."""
        switch = self._own / "cgroup.subtree_control"
        passed = self._files.read(switch).split()
        lacking = [name for name in CONTROLLERS if name not in passed]
        if not lacking:
            return
        try:
            self._files.write(switch, _signed("+", lacking))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            self._step_aside(undo)
            self._files.write(switch, _signed("+", lacking))
        undo.callback(_undone, self._keep_back, switch, _signed("-", lacking))

    def _keep_back(self, switch: Path, signed: str) -> None:
        """Pass the controllers down no more, unless groups of others live by them."""
        others = [group.name for group in self._files.below(self._own) if not group.name.startswith(self._prefix)]
        if others:
            log.warning("%s keeps its controllers passed down: %s is below it", self._own, ", ".join(sorted(others)))
            return
        self._files.write(switch, signed)

    def _step_aside(self, undo: ExitStack) -> None:
        """Move this process, if it is alone in its group, to one below, since a divided group may hold none."""
        members = self._own / "cgroup.procs"
        if self._files.read(members).split() != [str(self._pid)]:
            raise InputError(f"the control group {self._own} holds other processes, and cannot be divided; {REMEDY}")
        aside = undo.enter_context(self._made("self"))
        self._files.write(aside / "cgroup.procs", str(self._pid))
        undo.callback(_undone, self._files.write, members, str(self._pid))

    @contextmanager
    def _made(self, name: str) -> Iterator[Path]:
        group = self._own / f"{self._prefix}{name}"
        self._files.make(group)
        try:
            yield group
        finally:
            _undone(self._files.remove, group)


def _undone(work: Callable[..., None], file: Path, *arguments: str) -> None:
    """Do it if the kernel lets us: what cannot be undone is told, and no reason to fail at the end."""
    try:
        work(file, *arguments)
    except OSError as error:
        log.warning("%s could not be put back as it was: %s", file, error.strerror)


def _signed(sign: str, names: Iterable[str]) -> str:
    return " ".join(sign + name for name in names)


@contextmanager
def _told(own: Path) -> Iterator[None]:
    """What the kernel refuses within it is told with the reason."""
    try:
        yield
    except OSError as error:
        raise InputError(f"the control group {own} cannot be used ({error.strerror}); {REMEDY}") from error
