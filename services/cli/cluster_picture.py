"""The picture of a run's clusters: a heat map of divergences, and the map of clients and their edges."""

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from services.cli.picture import write_picture
from services.cli.standings import Clusters, Standing

NAMED = 60
"""Up to this many clients, clusters or edges, their names are written."""
BRIGHTEST = 0.95
"""Share of the divergences within the scale of colours; one far client shall not make all others dark."""
COLOURS = (0, 1, 2, 4, 5, 6, 7, 8, 9)
"""Of tab10, those of clusters: red is kept for what is to be noticed."""
THICKEST, THINNEST = 2.4, 0.5
"""Points of the lines to the nearest and to the farthest edge."""
SHAPES = {"": "o", "low trust": "v", "set aside": "X"}
"""Of a client, by its mark."""


def draw(found: Clusters, path: Path) -> None:
    """Write a PNG: divergences ordered by cluster, where there are any, beside the map; it appears whole.

    Raises InputError if it cannot be written.
    """
    height = float(np.clip(1.5 + 0.16 * len(found.clients), 5.0, 16.0))
    figure = Figure(figsize=(7.0 if found.divergence is None else height + 8.5, height), layout="constrained")
    if found.divergence is None:
        _map(figure.subplots(), found)
    else:
        heat, places = figure.subplots(1, 2, width_ratios=(height, 6.5))
        _heat(figure, heat, found.clients, found.divergence)
        _map(places, found)
    write_picture(figure, path)


def blocks(clients: Sequence[Standing]) -> list[tuple[int, int, int]]:
    """Cluster, first row and the row after the last, of each run of clients of one cluster."""
    found, start = [], 0
    for cluster, members in groupby(standing.cluster for standing in clients):
        stop = start + len(list(members))
        found.append((cluster, start, stop))
        start = stop
    return found


def _heat(figure: Figure, axes: Any, clients: Sequence[Standing], divergence: np.ndarray) -> None:
    apart = divergence[~np.eye(len(divergence), dtype=bool)]
    apart = apart[~np.isnan(apart)]
    brightest = max(float(np.quantile(apart, BRIGHTEST)), 1e-9) if apart.size else 1.0
    scale = colormaps["viridis"].with_extremes(bad="lightgray")
    image = axes.imshow(divergence, cmap=scale, vmin=0, vmax=brightest, interpolation="nearest")
    figure.colorbar(
        image, ax=axes, extend="max", shrink=0.8, aspect=30, label="divergence, over the median of all pairs"
    )
    found = blocks(clients)
    for _, start, _ in found[1:]:
        axes.axhline(start - 0.5, color="white", linewidth=1.5)
        axes.axvline(start - 0.5, color="white", linewidth=1.5)
    axes.set_yticks([])
    colours = colours_of(clients)
    if len(clients) <= NAMED:
        axes.set_yticks(range(len(clients)))
        labels = axes.set_yticklabels([standing.client for standing in clients], fontsize=7, parse_math=False)
        for label, standing in zip(labels, clients, strict=True):
            label.set_color(colours[standing.cluster])
    named = found if len(found) <= NAMED else []
    axes.set_xticks([(start + stop - 1) / 2 for _, start, stop in named], [str(cluster) for cluster, _, _ in named])
    for label, (cluster, _, _) in zip(axes.get_xticklabels(), named, strict=True):
        label.set(color=colours[cluster], fontweight="bold")
    grey = " (grey: no fingerprint)" if np.isnan(divergence).any() else ""
    axes.set(xlabel=f"cluster{grey}", title="how far apart clients behave")


def _map(axes: Any, found: Clusters) -> None:
    """Clients on the left by cluster, edges on the right, each near its clients."""
    heights = _heights(found.clients)
    edges = _edge_heights(found.clients, heights)
    colours = colours_of(found.clients)
    lines = [((0.0, y), (1.0, edges[standing.edge])) for standing, y in zip(found.clients, heights, strict=True)]
    kept = [colours[standing.cluster] for standing in found.clients]
    solid = [0.25 if standing.set_aside else 0.8 for standing in found.clients]
    widths = widths_of([standing.latency_ms for standing in found.clients])
    axes.add_collection(LineCollection(lines, colors=kept, alpha=solid, linewidths=widths, zorder=1))
    _clients(axes, found.clients, heights, colours)
    _edges(axes, found.clients, edges)
    gap = _gap(len(found.clients))
    axes.set(xlim=(-0.5, 1.5), ylim=(max(heights) + 1, -1 - gap), title="who trains at which edge (thin: far)")
    axes.axis("off")


def _clients(axes: Any, clients: Sequence[Standing], heights: Sequence[float], colours: dict[int, Any]) -> None:
    area = float(np.clip(4000 / len(clients), 4, 40))
    for mark, shape in SHAPES.items():
        chosen = [(y, standing) for y, standing in zip(heights, clients, strict=True) if standing.mark == mark]
        if not chosen:
            continue
        axes.scatter(
            [0.0] * len(chosen),
            [y for y, _ in chosen],
            s=area if not mark else max(2 * area, 20),
            c=[colours[standing.cluster] for _, standing in chosen],
            marker=shape,
            edgecolors="none" if not mark else "red",
            label=mark or None,
            zorder=3 if mark else 2,
        )
    if any(standing.mark for standing in clients):
        axes.legend(loc="upper right", fontsize=8)
    found = blocks(clients)
    for cluster, start, _ in found if len(found) <= NAMED else []:
        above = heights[start] - (1 + _gap(len(clients))) / 2
        axes.text(0.02, above, f"cluster {cluster}", ha="right", va="center", fontsize=8, color=colours[cluster])
    if len(clients) <= NAMED:
        for y, standing in zip(heights, clients, strict=True):
            _say(axes, -0.04, y, _time(standing.latency_ms), "right", "dimgray")
            _say(axes, -0.22, y, standing.client, "right", "red" if standing.mark else "black")


def _edges(axes: Any, clients: Sequence[Standing], edges: dict[str, float]) -> None:
    axes.scatter([1.0] * len(edges), list(edges.values()), s=60, c="black", marker="s", zorder=2)
    if len(edges) > NAMED:
        return
    for edge, y in edges.items():
        count = sum(standing.edge == edge for standing in clients)
        _say(axes, 1.04, y, f"{edge} ({count})", "left", "black")


def _say(axes: Any, x: float, y: float, text: str, side: str, colour: Any) -> None:
    axes.text(x, y, text, ha=side, va="center", fontsize=7, color=colour, parse_math=False)


def _heights(clients: Sequence[Standing]) -> list[float]:
    """Where each client is drawn, downwards, with a gap between clusters."""
    gap = _gap(len(clients))
    return [row + n * gap for n, (_, start, stop) in enumerate(blocks(clients)) for row in range(start, stop)]


def _gap(clients: int) -> float:
    """Rows left free above a cluster, for its name."""
    return max(1.0, clients / 40)


def widths_of(latencies_ms: Sequence[float]) -> NDArray[np.float64]:
    """Of the lines in points: thick where the edge is near, on the scale of logarithms."""
    times = np.log(np.maximum(latencies_ms, 1e-3))
    share = (times - times.min()) / max(float(np.ptp(times)), math.log(2))
    widths: NDArray[np.float64] = THICKEST - (THICKEST - THINNEST) * share
    return widths


def _time(latency_ms: float) -> str:
    return f"{latency_ms:.1f} ms" if latency_ms < 10 else f"{latency_ms:,.0f} ms"


def _edge_heights(clients: Sequence[Standing], heights: Sequence[float]) -> dict[str, float]:
    """Edges evenly spaced, in the order of the mean height of their clients, so that few lines cross."""
    of_edge: dict[str, list[float]] = {}
    for standing, y in zip(clients, heights, strict=True):
        of_edge.setdefault(standing.edge, []).append(y)
    order = sorted(of_edge, key=lambda edge: (float(np.mean(of_edge[edge])), edge))
    return {edge: (n + 0.5) * max(heights) / len(order) for n, edge in enumerate(order)}


def colours_of(clients: Sequence[Standing]) -> dict[int, Any]:
    """The colour of each cluster, the same in both parts of the picture."""
    clusters = sorted({standing.cluster for standing in clients})
    if len(clusters) <= len(COLOURS):
        return {cluster: colormaps["tab10"](n) for n, cluster in zip(COLOURS, clusters, strict=False)}
    return {cluster: colormaps["turbo"](n / (len(clusters) - 1)) for n, cluster in enumerate(clusters)}
