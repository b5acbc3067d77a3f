"""Where a demo works and where its result lies: a new result takes an earlier one's place only when it is whole."""

import fcntl
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from elsa.errors import InputError

MARK = ".elsa-demo"


class Workplace:
    """The folder beside `output` in which a demo works; `finish` puts it in place.

    What an unfinished demo left there is removed by the next one, unless it still runs.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self.folder = output.with_name(f"{output.name}.unfinished")
        self._lock = -1

    def check(self) -> None:
        """Raise InputError unless the output is absent, empty, or an earlier demo. Nothing is written."""
        for folder in (self._output, self.folder):
            taken = folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
            if taken and not (folder / MARK).is_file():
                raise InputError(f"{folder} exists and holds no demo; choose another --output, or remove it")

    def __enter__(self) -> Self:
        """Make the folder, empty. Raises InputError as `check`, or if another demo works there."""
        self.check()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / MARK, os.O_CREAT | os.O_RDWR)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise InputError(
                f"another demo works in {self.folder}; wait for it, or choose another --output"
            ) from error
        except OSError as error:
            raise InputError(
                f"{self.folder} cannot be written ({error.strerror}); choose another --output"
            ) from error
        for old in self.folder.iterdir():
            if old.name != MARK:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        os.close(self._lock)

    def finish(self) -> None:
        """Put the result in its place, and remove the earlier one."""
        old = self._output.with_name(f"{self._output.name}.replaced")
        shutil.rmtree(old, ignore_errors=True)
        if self._output.exists():
            self._output.rename(old)
        self.folder.rename(self._output)
        shutil.rmtree(old, ignore_errors=True)
