"""Figures that were measured once are kept in a folder, for a process that starts again on the same hardware.

Each stands in a JSON file of its own with what it was measured for, on what and when, so that a person can read it.
"""

import hashlib
import json
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from elsa.plan.hardware import hardware_name

Figures = Mapping[str, float]

KEPT_S = 7 * 24 * 3600.0
"""How long figures hold: a machine that nobody changed may still have other work to do than a week ago."""

log = logging.getLogger(__name__)


class KeptFigures:
    """Measured figures by what they were measured for.

    Args:
        folder: where they are kept; made when something is.
        clock: seconds since 1970.
        hardware: what this process runs on, on one line; figures of other hardware are not used.
    """

    def __init__(
        self, folder: Path, clock: Callable[[], float] = time.time, hardware: Callable[[], str] = hardware_name
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._hardware = hardware

    def get(self, key: Mapping[str, object], measure: Callable[[], Figures]) -> Figures:
        """The figures for `key`: those that are kept, if they still hold, else those of `measure`, which are kept.

        They are measured anew if they are older than 7 days or from the future, if their file cannot be read, or if
        it is of other hardware or of another key. Where they cannot be kept they are measured every time, which the
        log says.

        Args:
            key: everything that they depend on but the hardware: the model, the batch, the number of threads. Values
                that JSON has no form for count by their `str`.
        """
        about = {"hardware": self._hardware(), "key": json.loads(json.dumps(key, default=str))}
        name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        file = self._folder / f"{name}.json"
        kept = self._read(file, about)
        if kept is not None:
            return kept
        figures = dict(measure())
        self._write(file, {**about, "measured_at": self._clock(), "figures": figures})
        return figures

    def _read(self, file: Path, about: Mapping[str, Any]) -> Figures | None:
        try:
            raw = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            log.warning("figures in %s cannot be read (%s) and are measured anew", file, error)
            return None
        return raw["figures"] if _holds(raw, about, self._clock()) else None

    def _write(self, file: Path, content: Mapping[str, Any]) -> None:
        aside = file.with_name(f".{file.name}.{secrets.token_hex(4)}.aside")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            aside.replace(file)
        except OSError as error:
            log.warning("figures cannot be kept in %s (%s): they are measured again at each start", file, error)
            _remove(aside)


def _holds(raw: Any, about: Mapping[str, Any], now: float) -> bool:
    """Whether a file's content is of this key and hardware, whole, and not too old."""
    if not isinstance(raw, dict) or any(raw.get(name) != value for name, value in about.items()):
        return False
    measured_at: Any = raw.get("measured_at")
    if not _is_number(measured_at) or not 0 <= now - measured_at <= KEPT_S:
        return False
    figures: Any = raw.get("figures")
    return isinstance(figures, dict) and bool(figures) and all(map(_is_number, figures.values()))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s is left behind (%s)", file, error)
