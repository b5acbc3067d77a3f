"""What devices measured of themselves for one run, in the units that the planner reckons with.

A profile holds for a run's model and batches: seconds are those of one optimizer step, memory is what the process may
still take. A figure that cannot be one is an error that names the device and the field, so that whoever collects
profiles can set that device aside and go on with the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from elsa.errors import SpecError

MOST_S = 1e9
MOST_BYTES = 2**53
"""Up to here float64 counts every byte."""
LEAST_RATE, MOST_RATE = 1.0, 1e12
"""Bytes a second of a link: slower ones carry no training, faster ones are mistakes of a measurement."""
MOST_LATENCY_MS = 1e7
MOST_BLOCKS = 10_000
MOST_ROW = 2**31
LEAST_SHARE = 0.01
"""Of the longest rows' seconds, which the shortest take in any case."""


@dataclass(frozen=True, kw_only=True)
class LinkProfile:
    """A client's way to one edge."""

    latency_ms: float
    """Of an empty call and its answer: a round trip."""
    up_bytes_per_s: float
    """From client to edge."""
    down_bytes_per_s: float


@dataclass(frozen=True, kw_only=True)
class ClientProfile:
    """What a client measured of itself and of its links.

    Raises:
        SpecError: naming the client and the field.
    """

    name: str
    block_s: float
    """One block forward and backward, for all rows of a batch."""
    embeddings_s: float
    """What stands before the first block, for a batch."""
    head_s: float
    """Final norm, head, loss and the optimizer's step, for a batch."""
    codec_s: float = 0.0
    """Encoding what a step sends and decoding what it gets."""
    memory_bytes: int
    """What may be taken beyond the process without a model: what is free, or the owner's limit if lower."""
    max_bottom: int | None = None
    """Most blocks before the cut, as its owner wants it."""
    padded_tokens: float | None = None
    """To which its rows are padded on average while they are computed; None: as long as its rows are."""
    links: Mapping[str, LinkProfile] = field(default_factory=dict)
    """By edge."""

    def __post_init__(self) -> None:
        device = f"client {self.name}"
        _check_above_zero(device, "block_s", self.block_s, MOST_S)
        for name in ("embeddings_s", "head_s", "codec_s"):
            _check_not_negative(device, name, getattr(self, name), MOST_S)
        _check_above_zero(device, "memory_bytes", self.memory_bytes, MOST_BYTES)
        if self.max_bottom is not None:
            _check_above_zero(device, "max_bottom", self.max_bottom, MOST_BLOCKS)
        if self.padded_tokens is not None:
            _check_above_zero(device, "padded_tokens", self.padded_tokens, MOST_ROW)
        for edge, link in self.links.items():
            _check_link(device, f"links.{edge}", link)


@dataclass(frozen=True, kw_only=True)
class EdgeProfile:
    """What an edge measured of itself.

    Raises:
        SpecError: naming the edge and the field.
    """

    name: str
    block_s: float
    """One block forward and backward for one client's batch, with one session open."""
    crowding_s: float = 0.0
    """By how much `block_s` grows with each further open session. Waiting for the compute thread is not meant: the
    planner adds up what queues there."""
    step_s: float = 0.0
    """What a client's step takes on the compute thread besides its blocks: codecs, packing and the like."""
    memory_bytes: int
    """What may be taken beyond the process without a model: what is free, or the owner's limit if lower."""
    capacity: int
    """Sessions at once."""
    quarter_block_s: float | None = None
    """An edge that knows no rows measures `block_s` with the longest that the run allows, and this with rows a
    quarter as long. None: `block_s` and `step_s` are of its clients' rows."""
    quarter_step_s: float | None = None
    """As `quarter_block_s`, of `step_s`."""

    def __post_init__(self) -> None:
        device = f"edge {self.name}"
        if self.quarter_block_s is not None:
            _check_above_zero(device, "quarter_block_s", self.quarter_block_s, MOST_S)
        if self.quarter_step_s is not None:
            _check_not_negative(device, "quarter_step_s", self.quarter_step_s, MOST_S)
        _check_above_zero(device, "block_s", self.block_s, MOST_S)
        for name in ("crowding_s", "step_s"):
            _check_not_negative(device, name, getattr(self, name), MOST_S)
        _check_above_zero(device, "memory_bytes", self.memory_bytes, MOST_BYTES)
        _check_above_zero(device, "capacity", self.capacity, MOST_BYTES)

    def for_rows(self, share: float) -> "EdgeProfile":
        """As it is for rows of `share` of the longest length: on the line through both figures, never below 0."""
        if self.quarter_block_s is None and self.quarter_step_s is None:
            return self
        return replace(
            self,
            block_s=_on_line(self.block_s, self.quarter_block_s, share),
            step_s=_on_line(self.step_s, self.quarter_step_s, share),
            quarter_block_s=None,
            quarter_step_s=None,
        )

    def block_s_among(self, sessions: int) -> float:
        """Seconds of one block for one client's batch while so many sessions, at least one, are open."""
        return self.block_s + (sessions - 1) * self.crowding_s


def _on_line(whole_s: float, quarter_s: float | None, share: float) -> float:
    """Seconds for rows of `share` of the longest length, known for the longest and a quarter of them."""
    if quarter_s is None:
        return whole_s
    slope = max(whole_s - quarter_s, 0.0) / 0.75  # nothing gets faster with longer rows
    return max(whole_s - slope * (1 - share), LEAST_SHARE * whole_s)


def _check_link(device: str, where: str, link: LinkProfile) -> None:
    _check_not_negative(device, f"{where}.latency_ms", link.latency_ms, MOST_LATENCY_MS)
    for one in fields(link)[1:]:
        rate = getattr(link, one.name)
        if not LEAST_RATE <= rate <= MOST_RATE:
            raise SpecError(
                f"{device}: {where}.{one.name} is {_said(rate)}; it must be {LEAST_RATE:g} to {MOST_RATE:g}"
            )


def _check_above_zero(device: str, name: str, value: float, most: float) -> None:
    if not 0 < value <= most:
        raise SpecError(f"{device}: {name} is {_said(value)}; it must be above 0 and at most {most:g}")


def _check_not_negative(device: str, name: str, value: float, most: float) -> None:
    if not 0 <= value <= most:
        raise SpecError(f"{device}: {name} is {_said(value)}; it must be 0 to {most:g}")


def _said(value: float) -> str:
    """A number on a line of bearable length; whole ones may be too large for a float."""
    return f"{value:.6g}" if isinstance(value, float) or abs(value) < 2**63 else "beyond 2^63"
