"""Profiles as rounds correct them: what was measured before a run began, scaled to what its steps really took.

A device that others load, or that throttles, is slower in all that it computes: one factor for its blocks and one for
its link say what the reports of a round tell. A factor is a median, so that neither an edge round that went wrong nor
one of an edge's clients decides it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import isfinite, nan
from statistics import median

import numpy as np

from elsa.plan.cost import Crew, step_seconds
from elsa.plan.profile import (
    LEAST_RATE,
    MOST_LATENCY_MS,
    MOST_RATE,
    MOST_S,
    ClientProfile,
    EdgeProfile,
    LinkProfile,
)
from elsa.plan.shape import Workload
from elsa.spec import Split
from elsa.train.phases import PhaseSeconds

MOST_FACTOR = 10.0
"""By which one round changes a figure at most, up or down."""
LEAST_S = 1e-12
"""Of a block, whose seconds are above 0."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one client's steps of an edge round took."""

    split: Split
    steps: int
    """At least 1."""
    seconds: PhaseSeconds
    """Of all steps together."""


def client_as_measured(
    profile: ClientProfile, edge: str, workload: Workload, work: Sequence[Measured]
) -> ClientProfile:
    """A client's profile that predicts the seconds of its edge rounds, done with `edge`."""
    if edge not in profile.links:
        return profile
    found = [_client_factors(profile, edge, workload, each) for each in work]
    computing, away = (_factor(factors) for factors in zip(*found, strict=True)) if found else (1.0, 1.0)
    return replace(
        profile,
        block_s=_within(LEAST_S, profile.block_s * computing, MOST_S),
        embeddings_s=min(profile.embeddings_s * computing, MOST_S),
        head_s=min(profile.head_s * computing, MOST_S),
        codec_s=min(profile.codec_s * away, MOST_S),
        links={**profile.links, edge: _link_as_measured(profile.links[edge], away)},
    )


def _client_factors(profile: ClientProfile, edge: str, workload: Workload, work: Measured) -> tuple[float, float]:
    """How many times as long an edge round's computing and its network took."""
    blocks = work.split
    there = step_seconds(
        Crew.of([profile], edge),
        workload,
        0.0,
        0.0,
        bottom=np.array([[blocks.bottom]]),
        trunk=np.array([[blocks.trunk]]),
        top=np.array([[blocks.top]]),
    )
    computing_s, network_s = float((there.bottom + there.top)[0, 0]), float(there.network[0, 0])
    return (
        _ratio(work.seconds.bottom + work.seconds.top, work.steps * computing_s),
        _ratio(work.seconds.network, work.steps * network_s),
    )


def _link_as_measured(link: LinkProfile, away: float) -> LinkProfile:
    return replace(
        link,
        latency_ms=min(link.latency_ms * away, MOST_LATENCY_MS),
        up_bytes_per_s=_within(LEAST_RATE, link.up_bytes_per_s / away, MOST_RATE),
        down_bytes_per_s=_within(LEAST_RATE, link.down_bytes_per_s / away, MOST_RATE),
    )


def edge_as_measured(profile: EdgeProfile, work: Sequence[Sequence[Measured]], row_share: float = 1.0) -> EdgeProfile:
    """An edge's profile that predicts what the trunks of most of its clients took; at least one of them.

    Args:
        work: by client, its edge rounds.
        row_share: how long their rows are, of the longest.
    """
    here = profile.for_rows(row_share)
    block_s, step_s = here.block_s_among(len(work)), here.step_s
    factor = _factor(
        _middle(_ratio(each.seconds.trunk, each.steps * (each.split.trunk * block_s + step_s)) for each in own)
        for own in work
    )
    block_quarter_s, step_quarter_s = profile.quarter_block_s, profile.quarter_step_s
    return replace(
        profile,
        block_s=_within(LEAST_S, profile.block_s * factor, MOST_S),
        crowding_s=min(profile.crowding_s * factor, MOST_S),
        step_s=min(profile.step_s * factor, MOST_S),
        quarter_block_s=None if block_quarter_s is None else _within(LEAST_S, block_quarter_s * factor, MOST_S),
        quarter_step_s=None if step_quarter_s is None else min(step_quarter_s * factor, MOST_S),
    )


def _ratio(measured_s: float, predicted_s: float) -> float:
    """How many times as long it took; NaN where either is unknown."""
    return measured_s / predicted_s if measured_s > 0 and predicted_s > 0 and isfinite(measured_s) else nan


def _middle(ratios: Iterable[float]) -> float:
    """The median of what is known; NaN where nothing is."""
    known = [ratio for ratio in ratios if ratio > 0]
    return median(known) if known else nan


def _factor(ratios: Iterable[float]) -> float:
    """The median within bounds; 1 where nothing is known."""
    middle = _middle(ratios)
    return _within(1 / MOST_FACTOR, middle, MOST_FACTOR) if middle > 0 else 1.0


def _within(least: float, value: float, most: float) -> float:
    return min(max(value, least), most)
