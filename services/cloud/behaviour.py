"""Fingerprints of a run's clients as arrays, as they came and by probe; `clustering.py` compares them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elsa.cluster.fingerprint import Answers
from elsa.cluster.trust import Parts, of_neighbours
from elsa.cluster.trust_probes import Neighbours
from services.cloud.records import Fingerprint

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Behaviour:
    """What N clients of one run answered to its Q probes, R of which were asked twice; rows in the order of `ids`."""

    ids: tuple[str, ...]
    first: Array
    """(N, Q, dimensions)."""
    again: Array
    """(N, R, dimensions)."""
    repeated: NDArray[np.int64]
    """(N, R), the probes of `again`."""
    probabilities: Array | None
    """(N, Q, labels), of the first answers; None where the task is not classification."""
    arrival: Array
    """(N,), unix seconds."""

    @classmethod
    def of(cls, fingerprints: Sequence[Fingerprint]) -> "Behaviour":
        """The arrays of at least one fingerprint."""
        answers = [_answers(kept.embeddings, kept.asked, kept.dimensions) for kept in fingerprints]
        said = [
            _answers(kept.probabilities, kept.asked, kept.labels).first
            for kept in fingerprints
            if kept.probabilities is not None
        ]
        return cls(
            ids=tuple(kept.client_id for kept in fingerprints),
            first=np.stack([own.first for own in answers]),
            again=np.stack([own.again for own in answers]),
            repeated=np.stack([own.repeated for own in answers]),
            probabilities=np.stack(said) if len(said) == len(answers) else None,
            arrival=np.array([kept.arrived_unix_s for kept in fingerprints]),
        )

    def parts(self, near: Neighbours) -> dict[str, Parts]:
        """What the answers tell of each client's trust, given the nearest others of each."""
        return of_neighbours(
            self.ids,
            first=self.first,
            again=self.again,
            repeated=self.repeated,
            near=near,
            probabilities=self.probabilities,
            arrival=self.arrival,
        )


def _answers(data: bytes, asked: Sequence[int], width: int) -> Answers:
    values = np.frombuffer(data, "<f4").reshape(len(asked), width).astype(np.float64)
    return Answers.of(values, np.array(asked, np.int64))
