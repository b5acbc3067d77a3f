"""What an audit found, one line a setting, and as JSON."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from elsa.privacy.audit.audit import Result
from elsa.privacy.audit.observed import Recovery

JSON_FILE, FIGURE = "audit.json", "audit.png"
HEADINGS = (
    "setting",
    "split",
    "tokens",
    "by",
    "rank",
    "labels",
    "accuracy",
    "lost",
    "KB a step",
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """All results of an audit; the first is the unprotected one, which utility is held against."""

    about: Mapping[str, Any]
    """What was audited: model, rows, steps, seeds."""
    results: tuple[Result, ...]

    def points_lost(self, result: Result) -> float:
        """Accuracy lost against the first setting, in points of a hundred; NaN if that could not be trained."""
        if self.results[0].failure:
            return math.nan
        return 100 * (self.results[0].accuracy - result.accuracy)

    def best(self, points: float) -> Result | None:
        """The setting whose strongest attack recovers least, of those that lose at most `points`; None for none."""
        held = [result for result in self.results if not result.failure and self.points_lost(result) <= points]
        return min(held, key=lambda result: result.strongest.top1, default=None)

    @property
    def floor(self) -> Recovery | None:
        """What is recovered without looking at states; None where it was not asked for."""
        rows = (row for result in self.results for row in result.tokens if kind_of(row) == "floor")
        return next(rows, None)

    def lines(self) -> list[tuple[str, ...]]:
        """A cell for each of `HEADINGS`, a line for each setting."""
        return [self._line(result) for result in self.results]

    def attack_lines(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Headings, and a line for each setting: the best top-1 of each kind of attack; a dash where none was run."""
        ran = [result for result in self.results if not result.failure]
        kinds = sorted({kind_of(row) for result in ran for row in result.tokens})
        lines = []
        for result in ran:
            best = {kind: max((r.top1 for r in result.tokens if kind_of(r) == kind), default=None) for kind in kinds}
            lines.append((result.setting, *("-" if top1 is None else f"{top1:.3f}" for top1 in best.values())))
        return ("setting", *kinds), lines

    def to_json(self) -> str:
        """Everything, each figure with its attack."""
        rows = [self._raw(result) for result in self.results]
        return json.dumps({"about": dict(self.about), "settings": rows}, indent=2, ensure_ascii=False) + "\n"

    def write(self, folder: Path) -> None:
        """Write audit.json and audit.png. Raises OSError."""
        from elsa.privacy.audit.plot import draw

        folder.mkdir(parents=True, exist_ok=True)
        (folder / JSON_FILE).write_text(self.to_json(), encoding="utf-8")
        draw(self, folder / FIGURE)

    def _line(self, result: Result) -> tuple[str, ...]:
        if result.failure:
            return (result.setting, result.split, result.failure, *[""] * (len(HEADINGS) - 3))
        row, labels = result.strongest, result.strongest_on_labels
        return (
            result.setting,
            result.split,
            f"{row.top1:.3f}",
            kind_of(row),
            f"{row.rank:.0f}",
            "-" if labels is None else f"{labels.accuracy:.3f} ({labels.majority:.3f})",
            f"{result.accuracy:.3f}",
            "-" if math.isnan(self.points_lost(result)) else f"{self.points_lost(result):.1f}",
            f"{(result.up_bytes + result.down_bytes) / 1000:.0f}",
        )

    def _raw(self, result: Result) -> dict[str, Any]:
        raw = asdict(result)
        if not result.failure:
            raw |= {"strongest": asdict(result.strongest), "accuracy": result.accuracy}
            lost = self.points_lost(result)
            raw |= {"points_lost": None if math.isnan(lost) else lost}
        return raw


def kind_of(row: Recovery) -> str:
    """A0 to A5, or floor: the first word of an attack's name."""
    return row.attack.split()[0]


def noted(report: Report) -> list[str]:
    """What else there is to say, a line each: the floor, and the ε of settings with noise."""
    floor = report.floor
    said = (
        [] if floor is None else [f"{floor.top1:.3f} of the tokens are guessed without looking at any state (floor)"]
    )
    return said + [
        f"{result.setting}: one token's state of one row is protected by epsilon {result.epsilon:.3g}"
        for result in report.results
        if result.epsilon is not None
    ]
