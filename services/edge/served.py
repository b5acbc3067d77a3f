"""What an edge serves of a run at one time: the adapters of a version and an edge round, as tensors and as files."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from elsa.wire.adapter import encode_adapter
from services.edge.own_trunks import Adapter

Place = tuple[int, int]
"""A version, and the edge rounds done on top of it."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """One place of a run, and what its clients start from there."""

    place: Place
    adapter: Adapter = field(repr=False)
    """The run's of this version at edge round 0; later what those go on from whose cluster has none of its own."""
    encoded: bytes = field(repr=False)
    of_clusters: Mapping[int, Adapter] = field(repr=False)
    encoded_of: Mapping[int, bytes] = field(repr=False)

    @classmethod
    def of(
        cls,
        place: Place,
        adapter: Adapter,
        encoded: bytes | None = None,
        of_clusters: Mapping[int, Adapter] | None = None,
    ) -> "Served":
        """What is served at `place`; `encoded` is `adapter` as a file, where there is one already."""
        own = dict(of_clusters or {})
        return cls(
            place=place,
            adapter=adapter,
            encoded=encode_adapter(adapter) if encoded is None else encoded,
            of_clusters=own,
            encoded_of={cluster: encode_adapter(tensors) for cluster, tensors in own.items()},
        )

    @property
    def most_bytes(self) -> int:
        """Size of the largest file."""
        return max(len(self.encoded), *map(len, self.encoded_of.values()), 0)

    @property
    def is_whole(self) -> bool:
        """Whether it is a version as the cloud gave it: all start from the run's, and clusters' own are beside it."""
        return self.place[1] == 0

    def start(self, cluster: int) -> Adapter:
        """What a cluster's clients start from."""
        return self.adapter if self.is_whole else self.of_clusters.get(cluster, self.adapter)

    def file(self, cluster: int) -> bytes:
        """The same as a file."""
        return self.encoded if self.is_whole else self.encoded_of.get(cluster, self.encoded)

    def state(self, *, taking: bool) -> str:
        """Its place in words, and whether updates are taken for it."""
        version, edge_round = self.place
        if version < 0:
            return "none is yet"
        return f"version {version}, edge round {edge_round} is {'open' if taking else 'closed'}"


NOTHING = Served(place=(-1, -1), adapter={}, encoded=b"", of_clusters={}, encoded_of={})
"""What is served before the first round is opened."""
