"""What the owner of an edge decides, from flags, environment (`ELSA_…`) or YAML."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import SettingsConfigDict, SettingsError

from elsa.errors import SpecError
from elsa.parsing import Name, describe
from services.rpc.folders import user_cache
from services.rpc.monitor_settings import MonitorSettings
from services.rpc.pace import Pace
from services.rpc.rate_settings import RateSettings
from services.rpc.tls_settings import ServerTlsSettings

MODELS_EXAMPLE = '{"org/name": "/models/name"}'


class EdgeSettings(RateSettings, MonitorSettings, ServerTlsSettings):
    """Settings of an edge."""

    model_config = SettingsConfigDict(env_prefix="ELSA_", extra="forbid", frozen=True)

    name: Name = Field("edge", description="name of this edge, unique in the fleet")
    cloud: str = Field("127.0.0.1:7400", description="host:port of the cloud")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(0, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    advertise: str | None = Field(None, description="host:port that clients are told, if not the one listened on")
    capacity: int = Field(8, ge=1, le=1024, description="sessions at once")
    threads: int = Field(1, ge=1, description="threads of the compute kernels: this role's share of the cores")
    max_memory_mib: int | None = Field(
        None,
        ge=1,
        description="most memory for a run's blocks and sessions; a run that needs more is refused before anything "
        "is loaded; default: what is free",
    )
    models: Mapping[str, str] = Field(
        {},
        description="where this machine has a model that runs name: a folder of its own, by the run's model.source",
        json_schema_extra={"metavar": "SOURCE=FOLDER"},
    )
    state: Path = Field(
        Path("elsa-state"),
        description="folder for what closed edge rounds made, in a folder edges/NAME of this edge's own",
    )
    profiles: Path | None = Field(
        None,
        description="folder for what was measured of this machine; default: elsa/profiles in the user's cache folder",
    )
    pace: str = Field(
        "1",
        description="for experiments with unequal devices: how many times slower than it can this edge computes; "
        "1,3:4 is 4 times slower from version 3 of the adapter on",
    )
    reuse_memory_mib: int = Field(256, ge=0, description="most memory for clients' rows that are kept (reuse)")
    reuse_disk_mib: int = Field(4096, ge=0, description="most disk for them once memory is full")
    idle_timeout_s: float = Field(60.0, gt=0, description="a session without a message for so long is dropped")
    grace_s: float = Field(
        5.0,
        ge=0,
        le=3600,
        description="how long clients may go on to finish an edge round that is open when this edge is told to stop",
    )
    patience_s: float = Field(120.0, gt=0, description="how long to go on asking a cloud that does not answer")
    ready_file: Path | None = Field(None, description="written once this edge serves: JSON with address and pid")

    @field_validator("pace")
    @classmethod
    def _pace_is_one(cls, text: str) -> str:
        try:
            Pace.parse(text)
        except SpecError as error:
            raise ValueError(str(error)) from error
        return text

    @property
    def state_folder(self) -> Path:
        """Where this edge alone keeps what its closed edge rounds made."""
        return self.state / "edges" / self.name

    @property
    def profiles_folder(self) -> Path:
        """Where what was measured of this machine is kept."""
        return self.profiles or user_cache() / "elsa" / "profiles"

    @classmethod
    def load(cls, **given: object) -> "EdgeSettings":
        """Settings from the environment; what is `given` and not None wins. Raises SpecError naming the field."""
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
        except ValidationError as error:
            raise SpecError(f"settings of the edge (ELSA_...): {describe(error)}") from error
        except SettingsError as error:  # what is not even JSON
            raise SpecError(
                f"settings of the edge: ELSA_MODELS is not JSON; give it like {MODELS_EXAMPLE}"
            ) from error
