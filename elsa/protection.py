"""What a run does about privacy at the cut, and how often a row's activations travel: parts of `RunSpec`.

What each protects from, and how little some do, is measured by `elsa audit` and stated in docs/privacy.md.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from elsa.parsing import Part


class SsopSpec(Part):
    """SS-OP: activations are turned within their public top subspace before they leave the client."""

    rank: int = Field(16, ge=2, le=4096, description="directions that are turned")
    edge: Literal["keyed", "blind"] = Field(
        "blind",
        description="keyed: the edge is told the key; blind: it never is, and its blocks run on turned states",
    )
    key: Literal["run", "client"] = Field(
        "run", description="who shares a key; blind trunks are averaged among those only"
    )
    renew: Literal["run", "round", "step"] = Field("run", description="how long a key lasts")

    @model_validator(mode="after")
    def _blind_keys_last(self) -> Self:
        if self.edge == "blind" and self.renew != "run":
            raise ValueError(
                "renew: with edge: blind the trunk's adapter lives in the key's coordinates, and a new key each "
                f"{self.renew} makes it worthless; set renew: run, or edge: keyed"
            )
        return self


class NoiseSpec(Part):
    """Gaussian noise on h1: each token's state, less the public mean, is clipped and then blurred."""

    clip: float = Field(
        1.0,
        gt=0,
        le=1e3,
        description="longest norm of a token's centred state that is kept whole, in median norms of public ones",
    )
    multiplier: float = Field(gt=0, le=1e3, description="standard deviation of the noise, as a share of that norm")
    delta: float = Field(1e-5, gt=0, lt=1, description="the delta for which epsilon is stated")


class AdversarySpec(Part):
    """A small inverter in the client's loss, which its bottom learns to defeat."""

    weight: float = Field(0.1, gt=0, le=100, description="weight of the inverter's failure in the loss")
    width: int = Field(256, ge=8, le=8192, description="hidden units of the inverter")


class PrivacySpec(Part):
    """All off unless asked for."""

    ssop: SsopSpec | None = None
    noise: NoiseSpec | None = None
    adversary: AdversarySpec | None = None
    public_calibration: bool = Field(
        False, description="calibrate h1's codec on public probes before its first message, not on what passes"
    )

    @model_validator(mode="after")
    def _public_states_are_not_turned(self) -> Self:
        if self.public_calibration and self.ssop is not None:
            raise ValueError(
                "public_calibration: with ssop the public probes would travel beside what is turned, and tell of the "
                "key; turn one of both off"
            )
        return self

    @property
    def shares_key(self) -> bool:
        """Whether the clients of a run turn by one key, which its servers must not learn."""
        return self.ssop is not None and self.ssop.edge == "blind" and self.ssop.key == "run"

    @property
    def keeps_trunks(self) -> bool:
        """Whether each client's trunk lives in coordinates of its own, so that trunks are never averaged."""
        return self.ssop is not None and self.ssop.edge == "blind" and self.ssop.key == "client"


class ReuseSpec(Part):
    """Whether the edge keeps a row's h1, so that later epochs need not send it again."""

    enabled: bool = False
    threshold: float = Field(
        0.05, ge=0, lt=1, description="a row whose h1 moved by less than this share of its norm is not sent at all"
    )
