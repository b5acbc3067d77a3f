"""The picture of a plan of many clients: how what they keep and what they take is spread, and the edges' loads."""

from collections.abc import Mapping
from dataclasses import astuple
from typing import Any, get_args

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from elsa.plan.result import Bound
from services.cli.plan_table import PHASES, duration
from services.cli.planned import Planned

NAMED = 60
"""Up to this many edges, their names are written."""
SLICES = 100
"""Of the clients in the order of their steps; each slice is shown by its mean."""
BOUND_COLOURS: Mapping[Bound, str] = {
    "privacy": "#4477AA",
    "memory": "#EE6677",
    "speed": "#228833",
    "cap": "#AA3377",
    "edge": "#DDAA33",
    "kept": "#BBBBBB",
}


def draw_spread(found: Planned, colours: Mapping[str, str]) -> Figure:
    """The picture; `colours` are those of phases."""
    height = float(np.clip(2.0 + 0.2 * len(found.plan.edges), 5.0, 14.0))
    figure = Figure(figsize=(17.0, height), layout="constrained")
    kept, seconds, edges = figure.subplots(1, 3, width_ratios=(5, 6, 5))
    _kept(kept, found)
    _seconds(seconds, found, colours)
    _edges(edges, found, colours["trunk"])
    for axes in (kept, seconds, edges):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _kept(axes: Any, found: Planned) -> None:
    blocks = found.problem.model.blocks
    below = np.zeros(blocks + 1)
    for bound in get_args(Bound):
        kept = [blocks - one.split.trunk for one in found.clients if one.bound == bound]
        counts = np.bincount(kept, minlength=blocks + 1) if kept else np.zeros(blocks + 1, int)
        if kept:
            label = f"{bound} ({len(kept)})"
            axes.bar(range(blocks + 1), counts, bottom=below, color=BOUND_COLOURS[bound], label=label, width=0.85)
        below += counts
    axes.legend(title="what it hangs on", fontsize=8, frameon=False)
    axes.set(
        title=f"what {len(found.clients)} clients carry",
        xlabel=f"blocks that a client keeps, of {blocks}",
        ylabel="clients",
    )
    axes.set_xlim(0.4, max(np.flatnonzero(below)) + 1.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _seconds(axes: Any, found: Planned, colours: Mapping[str, str]) -> None:
    times = np.array([astuple(client.seconds) for client in found.clients])  # (clients, phases)
    times = times[np.argsort(times.sum(axis=1), kind="stable")]
    slices = np.array_split(times, SLICES)
    below = np.zeros(SLICES)
    for column, phase in enumerate(PHASES):
        mean = np.array([part[:, column].mean() for part in slices])
        axes.bar(np.arange(SLICES) + 0.5, mean, bottom=below, width=1.0, color=colours[phase], label=phase)
        below += mean
    axes.axhline(found.step_s, color="black", linestyle="--", linewidth=1)
    axes.legend(loc="upper left", fontsize=8, frameon=False, ncols=5, columnspacing=1.0)
    axes.set(
        title=f"seconds of a step; all have done one after {duration(found.step_s)}",
        xlabel=f"% of clients, from those that take least (means of {len(times) / SLICES:.3g} each)",
        ylabel="seconds",
        xlim=(0, SLICES),
        ylim=(0, 1.15 * found.step_s),
    )


def _edges(axes: Any, found: Planned, colour: str) -> None:
    edges = sorted(found.plan.edges.values(), key=lambda edge: (-edge.expected_s, edge.name))
    rows = range(len(edges))
    axes.barh(rows, [edge.expected_s for edge in edges], color="#E4E4E4", label="a step of its clients")
    axes.barh(rows, [edge.load_s for edge in edges], color=colour, height=0.5, label="that the edge computes")
    names = [f"{edge.name} ({edge.sessions})" for edge in edges] if len(edges) <= NAMED else []
    axes.set_yticks(list(rows)[: len(names)], names, fontsize=8, parse_math=False)
    axes.axvline(found.step_s, color="black", linestyle="--", linewidth=1)
    axes.legend(loc="upper left", fontsize=8, frameon=False, ncols=2)
    title = f"{len(edges)} edges and how many clients each has"
    axes.set(title=title, xlabel="seconds", ylim=(len(edges) - 0.4, -0.6 - 0.07 * len(edges)))
