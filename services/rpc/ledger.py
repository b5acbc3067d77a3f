"""What the runs of one process have reserved of its memory, so that two of them are not promised the same.

A run asks what is there beside the others, checks what it needs, and reserves that; another that asked meanwhile is
refused where both do not fit, whether or not the first has loaded anything yet.
"""

import threading
from collections.abc import Callable

from elsa.errors import CapacityError
from elsa.plan.admission import sized
from elsa.spec import RunSpec


class Ledger:
    """Of one process. Methods may be called from any thread.

    Args:
        usable_bytes: what this process may still take now; see `services.rpc.memory.usable_bytes`.
    """

    def __init__(self, usable_bytes: Callable[[], int]) -> None:
        self._usable_bytes = usable_bytes
        self._lock = threading.Lock()
        self._alone_bytes = 0
        self._reserved: dict[str, int] = {}
        self._draws: dict[str, bool] = {}

    def begin(self, run_id: str, spec: RunSpec) -> "Account":
        """The account of a run that begins here.

        A block that runs again in its backward takes its draws for dropout from torch's one generator of the process,
        which another run's thread would move meanwhile: gradients would be of other draws, and nobody would notice.
        So such a run has its process to itself.

        Raises:
            CapacityError: if this run or another here trains with both, and they would be two.
        """
        draws = spec.training.dropout and spec.training.checkpointing
        with self._lock:
            others = sorted(self._draws.keys() - {run_id})
            if others and (draws or any(self._draws[other] for other in others)):
                raise CapacityError(
                    f"run {run_id} cannot be at one process with {', '.join(others)}: one of them trains with both "
                    "training.dropout and training.checkpointing, which needs a process to itself; wait for the "
                    "other's end, or set one of the two to false"
                )
            self._draws[run_id] = draws
        return Account(self, run_id)

    def there(self, run_id: str) -> int:
        """Bytes that a run may take: what is free now, and no more than others have left of what was free before."""
        usable = self._usable_bytes()
        with self._lock:
            if not self._reserved.keys() - {run_id}:
                self._alone_bytes = usable
            return max(min(usable, self._alone_bytes - self._of_others(run_id)), 0)

    def reserve(self, run_id: str, size: int) -> None:
        """Reserve so many bytes for a run, in place of what it had; nothing changes if CapacityError is raised.

        `there` must have been asked for the run before. What is there for nobody else is not refused here.
        """
        with self._lock:
            others, names = self._of_others(run_id), ", ".join(sorted(self._reserved.keys() - {run_id}))
            if others and others + size > self._alone_bytes:
                raise CapacityError(
                    f"run {run_id} needs {sized(size)}, and {sized(others)} of "
                    f"{sized(self._alone_bytes)} are reserved at this process for {names}; "
                    "wait for an end, or raise max_memory_mib"
                )
            self._reserved[run_id] = size

    @property
    def reserved_bytes(self) -> int:
        """Of all runs."""
        with self._lock:
            return sum(self._reserved.values())

    def end(self, run_id: str) -> None:
        """The run has ended here, or never began."""
        with self._lock:
            self._reserved.pop(run_id, None)
            self._draws.pop(run_id, None)

    def _of_others(self, run_id: str) -> int:
        return sum(size for other, size in self._reserved.items() if other != run_id)


class Account:
    """One run's part of a `Ledger`."""

    def __init__(self, ledger: Ledger, run_id: str) -> None:
        self._ledger = ledger
        self._run_id = run_id
        self._closed = False

    def there(self) -> int:
        """See `Ledger.there`."""
        return self._ledger.there(self._run_id)

    def reserve(self, size: int) -> None:
        """See `Ledger.reserve`; nothing once this is closed."""
        if not self._closed:
            self._ledger.reserve(self._run_id, size)

    def close(self) -> None:
        """Give all back."""
        self._closed = True
        self._ledger.end(self._run_id)
