"""What the closed edge rounds of a global round made at an edge, as one file: a restarted edge goes on from it.

The file is a line with the SHA-256 of all that follows, a line of JSON with the numbers, and a safetensors file with
the adapters: `mean/…` what all clusters go on from, `made/C/…` what the clients of cluster C made, `reports/C` their
reports as a message, and `own/NAME/…` what a client keeps to itself.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BufferedIOBase
from typing import BinaryIO, Literal

import numpy as np
from pydantic import TypeAdapter

from elsa.errors import MalformedError
from services.edge import tensor_file
from services.edge.own_trunks import Adapter


@dataclass(frozen=True, kw_only=True)
class OfCluster:
    """What the clients of a cluster have made, as `delivery.Delivery` knows it."""

    rows: int
    clients: int
    steps: float


@dataclass(frozen=True, kw_only=True)
class Made:
    """What the clients of an edge have made of a version up to now."""

    of_clusters: Mapping[int, OfCluster]
    adapters: Mapping[int, Adapter] = field(repr=False)
    """By cluster, those of `of_clusters`."""
    reports: Mapping[int, bytes] = field(repr=False)
    """By cluster, an encoded `ClientReports`."""
    mean: Adapter | None = field(repr=False)
    """What all clusters go on from, where they go on together."""
    mean_steps: float
    cut_short: bool


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What `rounds.EdgeRounds` knows of its clients that a restart would lose."""

    clusters: Mapping[str, int]
    """Of the clients of whom the cloud said anything when the version began."""
    clusters_version: int | None
    own: Mapping[str, Adapter] = field(repr=False)
    """By client, the tensors that stay with it."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A run at an edge after an edge round."""

    edge: str
    run_id: str
    version: int
    edge_rounds: int
    """Closed on top of the version; 0 where nothing of it is wanted but what clients keep to themselves."""
    start_sha256: str
    """Of the version's file, from which all began."""
    taken_s: Mapping[int, Sequence[float]] = field(default_factory=dict)
    """Seconds that edge rounds took of late, by their number, as `timetable.Timetable` knows it."""
    cut_s: Mapping[int, float] = field(default_factory=dict)
    """Seconds that were too few for one, likewise."""
    made: Made = field(repr=False)
    kept: Kept = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class _Numbers:
    """The line of JSON."""

    format: Literal[1]
    edge: str
    run_id: str
    version: int
    edge_rounds: int
    start_sha256: str
    clusters: dict[str, int]
    clusters_version: int | None
    of_clusters: dict[int, OfCluster]
    mean_steps: float
    cut_short: bool
    taken_s: dict[int, tuple[float, ...]] = field(default_factory=dict)
    cut_s: dict[int, float] = field(default_factory=dict)


_NUMBERS = TypeAdapter(_Numbers)
_LONGEST_LINE = 100
"""Bytes of a digest's line, with some to spare."""
_PIECE_BYTES = 1 << 20


def write(saved: Saved, file: BinaryIO) -> None:
    """Write a run at an edge to a new file, tensor by tensor: what is in memory already is not copied there.

    Raises OSError.
    """
    digest = hashlib.sha256()
    file.write(bytes(len(digest.hexdigest())) + b"\n")
    for piece in _pieces(saved):
        digest.update(piece)
        file.write(piece)
    file.seek(0)
    file.write(digest.hexdigest().encode())


def read(file: BufferedIOBase) -> Saved:
    """A run at an edge from a file, read twice: whole, and then tensor by tensor, so that each is in memory once.

    Raises MalformedError for what is torn, altered, or no such file; OSError.
    """
    _check_digest(file)
    try:
        numbers, tensors = _NUMBERS.validate_json(file.readline()), tensor_file.read(file)
        made = _made(numbers, tensors)
    except (ValueError, KeyError, MalformedError) as error:  # a ValidationError, or a shape that NumPy does not take
        raise MalformedError(f"it is of another version of ELSA ({' '.join(str(error).split())[:200]})") from error
    return Saved(
        edge=numbers.edge,
        run_id=numbers.run_id,
        version=numbers.version,
        edge_rounds=numbers.edge_rounds,
        start_sha256=numbers.start_sha256,
        taken_s=numbers.taken_s,
        cut_s=numbers.cut_s,
        made=made,
        kept=Kept(
            clusters=numbers.clusters,
            clusters_version=numbers.clusters_version,
            own={client: _under(f"own/{client}/", tensors) for client in _owners(tensors)},
        ),
    )


def _check_digest(file: BufferedIOBase) -> None:
    """Compare a file with its first line, and go to the line after it."""
    told, digest = file.readline(_LONGEST_LINE), hashlib.sha256()
    begin = file.tell()
    while piece := file.read(_PIECE_BYTES):
        digest.update(piece)
    if told != digest.hexdigest().encode() + b"\n":
        raise MalformedError("it is torn or altered: its digest is another")
    file.seek(begin)


def _pieces(saved: Saved) -> Iterator[bytes | memoryview]:
    """What follows the digest."""
    yield _NUMBERS.dump_json(_numbers(saved)) + b"\n"
    yield from tensor_file.pieces(_tensors(saved))


def _numbers(saved: Saved) -> _Numbers:
    return _Numbers(
        format=1,
        edge=saved.edge,
        run_id=saved.run_id,
        version=saved.version,
        edge_rounds=saved.edge_rounds,
        start_sha256=saved.start_sha256,
        clusters=dict(saved.kept.clusters),
        clusters_version=saved.kept.clusters_version,
        of_clusters=dict(saved.made.of_clusters),
        mean_steps=saved.made.mean_steps,
        cut_short=saved.made.cut_short,
        taken_s={number: tuple(taken) for number, taken in saved.taken_s.items()},
        cut_s=dict(saved.cut_s),
    )


def _tensors(saved: Saved) -> Iterator[tuple[str, np.ndarray]]:
    made = saved.made
    yield from _named("mean", made.mean or {})
    for cluster, adapter in made.adapters.items():
        yield from _named(f"made/{cluster}", adapter)
        yield f"reports/{cluster}", np.frombuffer(made.reports[cluster], np.uint8)
    for client, tensors in saved.kept.own.items():
        yield from _named(f"own/{client}", tensors)


def _named(group: str, tensors: Adapter) -> Iterator[tuple[str, np.ndarray]]:
    return ((f"{group}/{name}", np.asarray(values, "<f4", order="C")) for name, values in tensors.items())


def _made(numbers: _Numbers, tensors: Adapter) -> Made:
    return Made(
        of_clusters=numbers.of_clusters,
        adapters={cluster: _under(f"made/{cluster}/", tensors) for cluster in numbers.of_clusters},
        reports={cluster: tensors[f"reports/{cluster}"].tobytes() for cluster in numbers.of_clusters},
        mean=_under("mean/", tensors) or None,
        mean_steps=numbers.mean_steps,
        cut_short=numbers.cut_short,
    )


def _under(group: str, tensors: Adapter) -> dict[str, np.ndarray]:
    return {name.removeprefix(group): values for name, values in tensors.items() if name.startswith(group)}


def _owners(tensors: Adapter) -> set[str]:
    return {name.split("/")[1] for name in tensors if name.startswith("own/")}
