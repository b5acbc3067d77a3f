"""What the cloud's owner may set: environment variables that begin with ELSA_, or arguments."""

from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import SettingsConfigDict

from elsa.errors import SpecError
from elsa.parsing import describe
from elsa.wire.chunks import MAX_MESSAGE_BYTES
from services.cloud.pace import BEATS_TO_LIVE, SLACK_S, Pace
from services.rpc.monitor_settings import MonitorSettings
from services.rpc.rate_settings import RateSettings
from services.rpc.tls_settings import ServerTlsSettings


class CloudSettings(RateSettings, MonitorSettings, ServerTlsSettings):
    """Settings of the cloud. Seconds and bytes unless said otherwise."""

    model_config = SettingsConfigDict(env_prefix="ELSA_", extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(7400, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    state: Path = Field(Path("elsa-state/cloud"), description="folder of the database, blobs and exports")
    database_url: str = Field("", description="SQLAlchemy URL; empty: SQLite in the state folder")
    blobs_url: str = Field(
        "",
        description="fsspec URL, of a bucket with its package (s3fs, gcsfs, adlfs); empty: a folder in the state",
    )
    ready_file: Path | None = Field(None, description="written with address and pid once the cloud serves")
    heartbeat_s: float = Field(
        2.0, gt=0, le=600, description="between heartbeats of a node, at the least; more where there are many nodes"
    )
    heartbeats_per_s: float = Field(
        100.0,
        gt=0,
        le=10_000,
        description="of all nodes together, which wait longer the more they are, but below a third of gone_after_s",
    )
    tick_s: float = Field(0.5, gt=0, le=60, description="between looks at deadlines")
    gone_after_s: float = Field(
        60.0, gt=0, description="silence after which nobody waits for a node, and an edge's clients go to others"
    )
    idle_s: float = Field(60.0, gt=0, description="silence after which a push is ended")
    grace_s: float = Field(5.0, ge=0, le=3600, description="for calls in flight when the cloud stops")
    sweep_s: float = Field(
        3600.0, gt=0, le=604_800, description="between looks for blobs that nothing refers to; the first at the start"
    )
    sweep_grace_s: float = Field(3600.0, ge=60, le=604_800, description="age below which no blob is swept")
    max_nodes: int = Field(
        10_000,
        ge=1,
        le=200_000,
        description="most edges and clients together; beyond 10,000, GetRun may name but the first of them",
    )
    max_open_runs: int = Field(32, ge=1, description="most runs that have not ended; a further one is refused")
    max_spec_bytes: int = Field(16 * 1024, ge=1, description="largest specification of a run, in bytes")
    max_adapter_bytes: int = Field(2**30, ge=1, description="largest adapter that an edge may push, in bytes")

    @model_validator(mode="after")
    def _gone_is_longer_than_silent(self) -> Self:
        if self.gone_after_s < BEATS_TO_LIVE * self.heartbeat_s + SLACK_S:
            raise ValueError(f"gone_after_s {self.gone_after_s:g} is less than three heartbeats and a second")
        return self

    @model_validator(mode="after")
    def _open_runs_go_into_a_message(self) -> Self:
        if self.max_open_runs * self.max_spec_bytes > MAX_MESSAGE_BYTES // 2:
            raise ValueError(
                f"max_open_runs {self.max_open_runs} times max_spec_bytes {self.max_spec_bytes} is more than "
                f"{MAX_MESSAGE_BYTES // 2}: what a node is to do has to go into one message; lower one of them"
            )
        return self

    @classmethod
    def load(cls, **given: object) -> "CloudSettings":
        """Settings from the environment; what is `given` and not None wins. Raises SpecError naming the field."""
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
        except ValidationError as error:
            raise SpecError(f"settings of the cloud (ELSA_...): {describe(error)}") from error

    @property
    def pace(self) -> Pace:
        """How often nodes are to be heard."""
        return Pace(shortest_s=self.heartbeat_s, most_per_s=self.heartbeats_per_s, gone_after_s=self.gone_after_s)

    @property
    def database(self) -> str:
        """URL of the database."""
        return self.database_url or f"sqlite:///{self.state / 'elsa.db'}"

    @property
    def blobs(self) -> str:
        """URL of the blobs."""
        return self.blobs_url or str(self.state / "blobs")
