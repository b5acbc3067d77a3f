"""What the owner of an edge decides, from flags, environment (`ELSA_…`) or YAML."""

from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from elsa.errors import SpecError
from elsa.parsing import Name, describe


class EdgeSettings(BaseSettings):
    """Settings of an edge."""

    model_config = SettingsConfigDict(env_prefix="ELSA_", extra="forbid", frozen=True)

    name: Name = Field("edge", description="name of this edge, unique in the fleet")
    cloud: str = Field("127.0.0.1:7400", description="host:port of the cloud")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(0, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    advertise: str | None = Field(None, description="host:port that clients are told, if not the one listened on")
    capacity: int = Field(8, ge=1, le=1024, description="sessions at once")
    threads: int = Field(1, ge=1, description="threads of the compute kernels: this role's share of the cores")
    max_memory_mib: int | None = Field(None, ge=1, description="most memory for weights; none: what is free")
    reuse_memory_mib: int = Field(256, ge=0, description="most memory for clients' rows that are kept (reuse)")
    reuse_disk_mib: int = Field(4096, ge=0, description="most disk for them once memory is full")
    idle_timeout_s: float = Field(60.0, gt=0, description="a session without a message for so long is dropped")
    patience_s: float = Field(120.0, gt=0, description="how long to go on asking a cloud that does not answer")
    insecure: bool = Field(False, description="allow listening off loopback without TLS")
    ready_file: Path | None = Field(None, description="written once this edge serves: JSON with address and pid")

    @classmethod
    def load(cls, **given: object) -> "EdgeSettings":
        """Settings from the environment; what is `given` and not None wins. Raises SpecError naming the field."""
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
        except ValidationError as error:
            raise SpecError(f"settings of the edge (ELSA_...): {describe(error)}") from error
