"""The picture of an audit: what leaks against what it costs in accuracy, and against bytes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from elsa.privacy.audit.report import Report


def draw(report: "Report", path: Path) -> None:
    """Write a PNG: settings as points, numbered as in its legend. Raises OSError."""
    results = [result for result in report.results if not result.failure]
    leaks = [result.strongest.top1 for result in results]
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    utility, traffic, key = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    _points(utility, [result.accuracy for result in results], leaks, "accuracy")
    _points(traffic, [(r.up_bytes + r.down_bytes) / 1000 for r in results], leaks, "kilobytes a step, both ways")
    traffic.set_xscale("log")
    floor = report.floor
    if floor is not None:
        for axes in (utility, traffic):
            axes.axhline(floor.top1, linestyle="dashed", linewidth=1, color="gray")
    key.axis("off")
    names = "\n".join(f"{number}  {result.setting}" for number, result in enumerate(results, start=1))
    key.text(0, 1, names, va="top", fontsize=8, transform=key.transAxes)
    figure.savefig(path, format="png", dpi=120)


def _points(axes: Any, across: list[float], leaks: list[float], label: str) -> None:
    axes.scatter(across, leaks, s=18)
    for number, (x, y) in enumerate(zip(across, leaks, strict=True), start=1):
        axes.annotate(str(number), (x, y), xytext=(4, 3), textcoords="offset points", fontsize=8)
    axes.set(xlabel=label, ylabel="tokens recovered by the strongest attack", ylim=(-0.03, 1.06))
    axes.grid(alpha=0.3)
