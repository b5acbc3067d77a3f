"""Profiles as rounds correct them: what was measured before a run began, scaled to what its steps really took.

A device that others load, or that throttles, is slower in all that it computes: one factor for its blocks and one for
its link say what the reports of a round tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from elsa.plan.cost import Crew, step_seconds
from elsa.plan.profile import ClientProfile, EdgeProfile
from elsa.plan.shape import Workload
from elsa.spec import Split
from elsa.train.phases import PhaseSeconds

MOST_FACTOR = 100.0
"""By which one round changes a figure at most, up or down."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one client's steps of an edge round took."""

    split: Split
    steps: int
    """At least 1."""
    seconds: PhaseSeconds
    """Of all steps together."""


def client_as_measured(profile: ClientProfile, edge: str, workload: Workload, work: Measured) -> ClientProfile:
    """A client's profile that predicts the seconds of `work`, done with `edge`."""
    if edge not in profile.links:
        return profile
    crew, blocks = Crew.of([profile], edge), work.split
    there = step_seconds(
        crew,
        workload,
        0.0,
        bottom=np.array([[blocks.bottom]]),
        trunk=np.array([[blocks.trunk]]),
        top=np.array([[blocks.top]]),
    )
    computing = _factor(work.seconds.bottom + work.seconds.top, work.steps * float((there.bottom + there.top)[0, 0]))
    away = _factor(work.seconds.network, work.steps * float(there.network[0, 0]))
    link = profile.links[edge]
    nearer = replace(
        link,
        latency_ms=link.latency_ms * away,
        up_bytes_per_s=link.up_bytes_per_s / away,
        down_bytes_per_s=link.down_bytes_per_s / away,
    )
    return replace(
        profile,
        block_s=profile.block_s * computing,
        embeddings_s=profile.embeddings_s * computing,
        head_s=profile.head_s * computing,
        links={**profile.links, edge: nearer},
    )


def edge_as_measured(profile: EdgeProfile, work: Sequence[Measured], row_share: float = 1.0) -> EdgeProfile:
    """An edge's profile that predicts what its clients' trunks took, all together; at least one of them.

    Args:
        row_share: how long their rows are, of the longest.
    """
    taken_s = sum(each.seconds.trunk for each in work)
    blocks = sum(each.steps * each.split.trunk for each in work)
    factor = _factor(taken_s, blocks * profile.for_rows(row_share).block_s_among(len(work)))
    quarter_s = profile.quarter_block_s
    return replace(
        profile,
        block_s=profile.block_s * factor,
        crowding_s=profile.crowding_s * factor,
        quarter_block_s=None if quarter_s is None else quarter_s * factor,
    )


def _factor(measured_s: float, predicted_s: float) -> float:
    """How many times as long it took; 1 where either is unknown."""
    if not (measured_s > 0 and predicted_s > 0 and np.isfinite(measured_s)):
        return 1.0
    return float(np.clip(measured_s / predicted_s, 1 / MOST_FACTOR, MOST_FACTOR))
