"""The settings of what looks after a role: where it answers probes and monitors."""

from typing import Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings


class MonitorSettings(BaseSettings):
    """Two plain listeners beside a role's own, neither of which asks for a certificate (docs/identity.md)."""

    probe_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port of a plain listener for container engines' probes, gRPC's health service alone: '' says "
        "whether this role is ready, 'live' whether it lives; default: none",
    )
    probe_host: str = Field("127.0.0.1", min_length=1, description="address of the listener for probes")
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port of a plain HTTP listener for Prometheus, at /metrics; default: none",
    )
    metrics_host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="address of the listener for Prometheus: everyone who reaches it reads docs/metrics.md's figures",
    )

    @field_validator("probe_port", "metrics_port", mode="before")
    @classmethod
    def _empty_port_is_none(cls, given: Any) -> Any:
        return None if given == "" else given
