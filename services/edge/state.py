"""What an edge keeps on disk: of each run that it takes part in, what its newest closed edge round made.

A file is written aside, forced to the disk and renamed: after a kill the one before is there or the new one, whole.
Where it cannot be written the edge works on; killed then, it repeats what it had not kept. Folder and files are for
the edge's own user alone: they hold what single clients have trained.
"""

import hashlib
import logging
import os
import secrets
import threading
from collections.abc import Collection
from pathlib import Path
from urllib.parse import quote

from elsa.errors import MalformedError
from services.edge.saved import Saved, read, write

log = logging.getLogger(__name__)

_SUFFIX, _ASIDE = ".round", ".aside"


class EdgeState:
    """The files of one edge. For any thread, each run's from one at a time.

    Args:
        folder: of this edge alone; made when something is kept.
        edge: its name.
    """

    def __init__(self, folder: Path, edge: str) -> None:
        self._folder = folder
        self.edge = edge
        self._lock = threading.Lock()
        self._told = False

    def put(self, saved: Saved) -> bool:
        """Keep what a run's newest edge round made, in place of what the one before made; whether that worked.

        Where it did not, the log says so, once until it does again, and what was kept before is there still.
        """
        try:
            self._write(saved)
        except OSError as error:
            self._say_unkept(saved.run_id, error)
            return False
        with self._lock:
            self._told = False
        return True

    def get(self, run_id: str) -> Saved | None:
        """What is kept of a run; None where that is nothing, or, with a warning, nothing that can be used."""
        file = self._file(run_id)
        try:
            with file.open("rb") as opened:
                saved = read(opened)
            if (saved.edge, saved.run_id) != (self.edge, run_id):
                raise MalformedError(f"it is of run {saved.run_id} at {saved.edge}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, MalformedError) as error:
            log.warning("run %s: %s is ignored (%s); the round begins again", run_id, file, error)
            return None
        return saved

    def drop(self, run_id: str) -> None:
        """Keep nothing of a run any more."""
        _remove(self._file(run_id))

    def keep_only(self, run_ids: Collection[str]) -> None:
        """Keep nothing of any other run, and nothing that was left unfinished."""
        known = {self._file(run_id) for run_id in run_ids}
        for kind in (_SUFFIX, _ASIDE):
            for file in sorted(self._folder.glob(f"*{kind}")):
                if file not in known:
                    _remove(file)

    def _file(self, run_id: str) -> Path:
        name = quote(run_id, safe="")
        if len(name) > 200:
            name = hashlib.sha256(run_id.encode()).hexdigest()
        return self._folder / f"{name}{_SUFFIX}"

    def _write(self, saved: Saved) -> None:
        file = self._file(saved.run_id)
        _make_own(self._folder)
        aside = file.with_name(f"{secrets.token_hex(8)}{_ASIDE}")
        try:
            aside.touch(mode=0o600, exist_ok=False)
            with aside.open("wb") as opened:
                write(saved, opened)
                opened.flush()
                os.fsync(opened.fileno())
            aside.replace(file)
            _sync(self._folder)
        except OSError:
            _remove(aside)
            raise

    def _say_unkept(self, run_id: str, error: OSError) -> None:
        with self._lock:
            told, self._told = self._told, True
        if not told:
            log.warning(
                "run %s: what its edge rounds make cannot be kept in %s (%s): it goes on in memory, and if this edge "
                "is killed, repeats what was not kept; free some space, or set state to another folder",
                *(run_id, self._folder, error.strerror or error),
            )


def _make_own(folder: Path) -> None:
    """Make a folder that only this process's user may enter; one that is there already becomes that."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)


def _sync(folder: Path) -> None:
    """Force a folder's names to the disk."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except NotADirectoryError:  # nothing can be there
        return
    except OSError as error:
        log.warning("%s is left behind (%s)", file, error)
