"""The picture of a plan: what each client carries, beside what a step takes it by phase; edge by edge."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from elsa.plan.result import ClientPlan
from services.cli.picture import write_picture
from services.cli.plan_spread import draw_spread
from services.cli.plan_table import PHASES, duration
from services.cli.planned import Planned

MOST_BARS = 100
"""Clients that each have a bar; of more, it is shown how they are spread."""
COLOURS: Mapping[str, str] = {
    "bottom": "#4477AA",
    "network": "#88CCEE",
    "wait": "#E4E4E4",
    "trunk": "#DDAA33",
    "top": "#228833",
}
PARTS = ("bottom", "trunk", "top")
GAP = 1.2
"""Rows above an edge's clients, for its name."""


def draw(found: Planned, path: Path) -> None:
    """Write a PNG; it appears whole. Raises InputError if it cannot be written."""
    if len(found.clients) > MOST_BARS:
        write_picture(draw_spread(found, COLOURS), path)
        return
    heights = heights_of(found.clients)
    figure = Figure(figsize=(13.0, 1.9 + 0.19 * (heights[-1] + 1)), layout="constrained")
    blocks, seconds = figure.subplots(1, 2, sharey=True, width_ratios=(4, 7))
    _blocks(blocks, found, heights)
    _seconds(seconds, found, heights)
    _edges(blocks, seconds, found, heights)
    blocks.set_ylim(heights[-1] + 0.8, -GAP - 0.3)
    handles, labels = seconds.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9, frameon=False)
    write_picture(figure, path)


def heights_of(clients: Sequence[ClientPlan]) -> list[float]:
    """Where each client is drawn, downwards, with a gap between edges."""
    found: list[float] = []
    for number, (_, members) in enumerate(groupby(clients, key=lambda client: client.edge)):
        start = len(found) + number * GAP
        found += [start + row for row, _ in enumerate(members)]
    return found


def _blocks(axes: Any, found: Planned, heights: Sequence[float]) -> None:
    splits = [client.split for client in found.clients]
    left = np.zeros(len(splits))
    for part in PARTS:
        widths = np.array([getattr(split, part) for split in splits])
        axes.barh(heights, widths, left=left, height=0.8, color=COLOURS[part])
        left += widths
    for y, split in zip(heights, splits, strict=True):
        axes.text(1.01, y, str(split), transform=axes.get_yaxis_transform(), va="center", fontsize=7)
    axes.set_yticks(heights, [client.name for client in found.clients], fontsize=7, parse_math=False)
    axes.set(xlim=(0, found.problem.model.blocks), title="blocks of the model", xlabel="bottom / trunk / top")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _bare(axes)


def _seconds(axes: Any, found: Planned, heights: Sequence[float]) -> None:
    left = np.zeros(len(heights))
    for phase in PHASES:
        widths = np.array([getattr(client.seconds, phase) for client in found.clients])
        axes.barh(heights, widths, left=left, height=0.8, color=COLOURS[phase], label=phase)
        left += widths
    axes.axvline(found.step_s, color="black", linestyle="--", linewidth=1)
    axes.set(
        xlim=(0, 1.02 * found.step_s),
        title=f"seconds of a step; all have done one after {duration(found.step_s)}",
        xlabel="seconds",
    )
    axes.tick_params(left=False)
    _bare(axes)


def _edges(blocks: Any, seconds: Any, found: Planned, heights: Sequence[float]) -> None:
    """Each edge's name above its clients, and its own makespan beside them."""
    placed = zip(found.clients, heights, strict=True)
    for name, members in groupby(placed, key=lambda placed: placed[0].edge):
        rows = [height for _, height in members]
        edge = found.plan.edges[name]
        said = f"{name}: {duration(edge.expected_s)} a step, computes {edge.load_s / edge.expected_s:.0%} of it"
        blocks.text(0, rows[0] - 0.5, said, fontsize=8, fontweight="bold", va="bottom", parse_math=False)
        seconds.vlines(edge.expected_s, rows[0] - 0.5, rows[-1] + 0.5, color="black", linewidth=1.5)


def _bare(axes: Any) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
