"""Who learns with whom: what a specification says of fingerprints, clusters, trust and assignment."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from elsa.parsing import Part

MONTH_S = 30 * 24 * 3600.0
FEWEST_PROBES, MOST_PROBES = 8, 1024
MOST_UPLOAD_BYTES = 1_000_000
"""Of a fingerprint, which goes into one message."""
OWN = 128
"""Probes of the project's own (`elsa.data.probes`)."""
ASKED = 64
Sentence = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=900)]


class ProbesSpec(Part):
    """What clients are asked, all the same; public, so that nothing of a client's rows is in it."""

    count: int = Field(
        ASKED, ge=FEWEST_PROBES, le=MOST_PROBES, description="how many are asked; unsaid, all of fewer sentences"
    )
    repeated: int = Field(8, ge=1, le=256, description="of those, how many are asked twice, at places of their own")
    sentences: tuple[Sentence, ...] = Field(
        (), max_length=MOST_PROBES, description="the probes; empty: the project's own 128"
    )
    pooling: Literal["token", "mean"] = Field(
        "token", description="embedding of a probe: of [CLS] or the last real token, or the mean of all"
    )

    @model_validator(mode="before")
    @classmethod
    def _ask_all_of_fewer(cls, raw: Any) -> Any:
        given = raw.get("sentences") if isinstance(raw, Mapping) and "count" not in raw else None
        if isinstance(given, list | tuple) and FEWEST_PROBES <= len(given) < ASKED:
            return {**raw, "count": len(given)}
        return raw

    @field_validator("sentences")
    @classmethod
    def _sentences_differ(cls, sentences: tuple[str, ...]) -> tuple[str, ...]:
        first: dict[str, int] = {}
        for number, sentence in enumerate(sentences, start=1):
            if first.setdefault(sentence, number) != number:
                raise ValueError(f"number {number} is the same as number {first[sentence]}; probes must differ")
        return sentences

    @model_validator(mode="after")
    def _there_are_so_many(self) -> Self:
        there = len(self.sentences) or OWN
        if there < FEWEST_PROBES:
            raise ValueError(f"sentences: {there} given; at least {FEWEST_PROBES} are needed")
        if self.count > there:
            raise ValueError(f"count {self.count} is more than the {there} probes that there are")
        if self.repeated > self.count:
            raise ValueError(f"repeated {self.repeated} is more than count {self.count}")
        return self


class ClusteringSpec(Part):
    """How clients are grouped before the first round, and again later."""

    method: Literal["auto", "spectral", "agglomerative", "none"] = Field(
        "auto",
        description="auto: spectral where there is more than one edge and no turned activations; none: nobody is",
    )
    clusters: Annotated[int, Field(ge=1, le=1000)] | Literal["edges", "eigengap"] = Field(
        "edges", description="how many; or as many as there are edges"
    )
    edges: Literal["similar", "balanced"] = Field(
        "similar", description="an edge's clients behave alike, or are a mixture near the whole"
    )
    warmup_steps: int = Field(15, ge=0, le=10_000, description="local steps before a client is fingerprinted")
    probes: ProbesSpec = ProbesSpec()
    dimensions: int = Field(32, ge=2, le=256, description="of a fingerprint")
    shrinkage: Annotated[float, Field(gt=0, lt=1)] | Literal["ledoit-wolf"] = Field(
        0.01, description="how far covariances are drawn to a multiple of the identity"
    )
    quorum: float = Field(1.0, gt=0, le=1, description="share of clients whose fingerprints end the wait")
    deadline_s: float = Field(600.0, gt=0, le=MONTH_S, description="the wait ends then with what has come")
    every: int = Field(0, ge=0, le=10_000, description="global rounds after which it is done anew; 0: done once")

    def renews(self, version: int, rounds: int) -> bool:
        """Whether clients are asked again as they train towards this version of a run of so many rounds."""
        return self.every > 0 and 0 < version < rounds and version % self.every == 0

    def upload_bytes(self, labels: int) -> int:
        """What a client's fingerprint takes on the wire, in a task with so many labels."""
        return 4 * (self.probes.count + self.probes.repeated) * (self.dimensions + labels)


class TrustSpec(Part):
    """How far a client's update counts."""

    enabled: bool = Field(True, description="weigh updates by trust; off: all count in full")
    min_trust: float = Field(0.2, ge=0, lt=1, description="a client below it shapes no cluster")


class AssignmentSpec(Part):
    """What decides the edge of a client: alpha·divergence + beta·latency/bound + gamma·(1 − trust)."""

    alpha: float = Field(1.0, ge=0, le=1e6, description="weight of the divergence to the edge's cluster")
    beta: float = Field(1.0, ge=0, le=1e6, description="weight of latency")
    gamma: float = Field(1.0, ge=0, le=1e6, description="weight of distrust")
    latency_bound_ms: float = Field(1000.0, gt=0, le=1e6, description="edges further off are out of reach")
    move_cost: float = Field(0.5, ge=0, le=1e6, description="what a move to another edge has to save")
