"""The adapters of a version: the mean of what the edges delivered, and that of each cluster alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from elsa.aggregate.fednova import averaged
from elsa.wire.adapter import decode_adapter, encode_adapter, sha256
from services.cloud.round_records import MIXED, Update


@dataclass(frozen=True, kw_only=True)
class File:
    """An adapter as a safetensors file."""

    sha256: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What the updates of a round make."""

    whole: File
    clusters: Mapping[int, File]
    """By cluster, of those that delivered; of none in a run that does not cluster."""


def merged(given: Sequence[tuple[Update, bytes]], before: bytes | None = None) -> Merged:
    """The means of at least one update, weighted by rows; those of a cluster are of its own updates alone.

    What is mixed, or of clusters that hold no more, is in the mean of all and in no cluster's.

    Args:
        before: the version from which all clients began, in a run whose clients take different numbers of steps,
            which are then evened out (FedNova).
    """
    found = {(u.edge_id, u.cluster): (float(u.rows), u.effective_steps, decode_adapter(data)) for u, data in given}
    own = {(update.edge_id, update.cluster) for update, _ in given if update.cluster != MIXED and not update.outdated}
    numbers = sorted({cluster for _, cluster in own})
    start = {} if before is None else decode_adapter(before)

    def mean(of: int | None) -> File:
        part = {
            f"{edge} {n}": made for (edge, n), made in found.items() if of is None or ((edge, n) in own and n == of)
        }
        data = encode_adapter(averaged(start, part)[0])
        return File(sha256=sha256(data), data=data)

    return Merged(whole=mean(None), clusters={cluster: mean(cluster) for cluster in numbers})
