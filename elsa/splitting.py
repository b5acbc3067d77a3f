"""Where a model is cut, and who decides it.

`Split` is the cut of a model with a known number of blocks; `SplitSpec` is what a person writes, before that number
is known.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from elsa.errors import SplitError
from elsa.parsing import Part


@dataclass(frozen=True, kw_only=True)
class Split:
    """A model of `bottom + trunk + top` blocks cut in three; the head is always the client's.

    Raises:
        SplitError: if bottom < 1, trunk < 1 or top < 0.
    """

    bottom: int
    trunk: int
    top: int

    def __post_init__(self) -> None:
        if self.bottom < 1 or self.trunk < 1 or self.top < 0:
            raise SplitError(
                f"split {self} (bottom/trunk/top) is impossible: bottom and trunk need at least 1 block, "
                "top at least 0; choose smaller bottom and top"
            )

    @property
    def blocks(self) -> int:
        """Number of blocks of the whole model."""
        return self.bottom + self.trunk + self.top

    @property
    def trunk_blocks(self) -> range:
        """Indices of the blocks that the edge runs."""
        return range(self.bottom, self.bottom + self.trunk)

    def __str__(self) -> str:
        return f"{self.bottom}/{self.trunk}/{self.top}"


class SplitSpec(Part):
    """How many blocks a client keeps at each end, at least where splits are planned; the edge runs the rest."""

    bottom: int = Field(1, ge=1, le=10_000)
    top: int = Field(1, ge=0, le=10_000)

    def of(self, blocks: int) -> Split:
        """The split of a model of `blocks` blocks. Raises SplitError if nothing is left for the trunk."""
        if self.bottom + self.top >= blocks:
            raise SplitError(
                f"split with bottom {self.bottom} and top {self.top} leaves no trunk in a model of {blocks} "
                f"blocks; bottom + top may be at most {blocks - 1}"
            )
        return Split(bottom=self.bottom, trunk=blocks - self.bottom - self.top, top=self.top)


class PlanSpec(Part):
    """Who decides each client's split: the specification, or a plan made from what devices measured."""

    method: Literal["auto", "measured", "given"] = Field(
        "auto",
        description="auto: measured, but for runs that name clients' splits or turn activations (privacy.ssop)",
    )
    every: int = Field(1, ge=0, le=10_000, description="global rounds from one plan to the next; 0: one for all")
