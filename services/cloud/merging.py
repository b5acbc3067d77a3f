"""The adapters of a version: the mean of what the edges delivered, and that of each cluster alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from elsa.aggregate.fedavg import fedavg
from elsa.wire.adapter import decode_adapter, encode_adapter, sha256
from services.cloud.records import MIXED, Update


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


def merged(given: Sequence[tuple[Update, bytes]]) -> Merged:
    """The means of at least one update, weighted by rows; those of a cluster are of its own updates alone.

    What is mixed, or of clusters that hold no more, is in the mean of all and in no cluster's.
    """
    tensors = {(update.edge_id, update.cluster): decode_adapter(data) for update, data in given}
    rows = {(update.edge_id, update.cluster): float(update.rows) for update, _ in given}
    own = {(update.edge_id, update.cluster) for update, _ in given if update.cluster != MIXED and not update.outdated}
    numbers = sorted({cluster for _, cluster in own})

    def mean(of: int | None) -> File:
        chosen = [key for key in rows if of is None or (key in own and key[1] == of)]
        part = {f"{edge} {n}": (rows[edge, n], tensors[edge, n]) for edge, n in chosen}
        data = encode_adapter(fedavg(part))
        return File(sha256=sha256(data), data=data)

    return Merged(whole=mean(None), clusters={cluster: mean(cluster) for cluster in numbers})
