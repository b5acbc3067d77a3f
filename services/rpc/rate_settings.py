"""The settings of what each caller may ask of a server, which it knows by its certificate."""

from pydantic import Field
from pydantic_settings import BaseSettings

from elsa.wire.chunks import MAX_MESSAGE_BYTES
from services.rpc.rates import RateLimits


class RateSettings(BaseSettings):
    """Limits of each identity; without TLS nobody has one, and nobody is limited."""

    max_calls_per_s: float = Field(
        RateLimits.calls_per_s, gt=0, allow_inf_nan=False, description="most calls a second of each identity"
    )
    max_calls_at_once: int = Field(RateLimits.calls_burst, ge=1, description="most calls of each identity in a burst")
    max_streams_per_s: float = Field(
        RateLimits.streams_per_s,
        gt=0,
        allow_inf_nan=False,
        description="most streams that each identity begins a second",
    )
    max_streams_at_once: int = Field(
        RateLimits.streams_burst, ge=1, description="most streams that each identity begins in a burst"
    )
    max_open_streams: int = Field(
        RateLimits.open_streams, ge=1, description="most streams that each identity has open"
    )
    max_request_bytes_per_s: float = Field(
        RateLimits.request_bytes_per_s,
        gt=0,
        allow_inf_nan=False,
        description="most bytes of requests a second of each identity",
    )
    max_request_bytes_at_once: int = Field(
        RateLimits.request_bytes_burst,
        ge=MAX_MESSAGE_BYTES,
        description="most bytes of requests of each identity in a burst; at least those of one message",
    )

    @property
    def rates(self) -> RateLimits:
        """The limits of one identity."""
        return RateLimits(
            calls_per_s=self.max_calls_per_s,
            calls_burst=self.max_calls_at_once,
            streams_per_s=self.max_streams_per_s,
            streams_burst=self.max_streams_at_once,
            open_streams=self.max_open_streams,
            request_bytes_per_s=self.max_request_bytes_per_s,
            request_bytes_burst=self.max_request_bytes_at_once,
        )
