"""What the owner of a site decides, from flags, environment (`ELSA_…`) or YAML."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import SettingsConfigDict, SettingsError

from elsa.errors import SpecError
from elsa.parsing import Name, describe
from services.rpc.folders import user_cache
from services.rpc.monitor_settings import MonitorSettings
from services.rpc.pace import Pace
from services.rpc.tls_settings import TlsSettings

MAPPINGS = {
    "data": '{"reviews": "rows.jsonl"}',
    "heldout": '{"reviews": "kept.jsonl"}',
    "edge_addresses": '{"edge-1": "10.0.0.7:7500"}',
    "models": '{"org/name": "/models/name"}',
}
"""Settings that are JSON in the environment, and how each looks there."""


class ClientSettings(MonitorSettings, TlsSettings):
    """Settings of a client."""

    model_config = SettingsConfigDict(env_prefix="ELSA_", extra="forbid", frozen=True)

    name: Name = Field("client", description="name of this client, unique in the fleet")
    cloud: str = Field("127.0.0.1:7400", description="host:port of the cloud")
    data: Mapping[Name, str] = Field(
        {}, description="data sets offered to runs: name and file (.jsonl .csv .parquet, .gz), hf:NAME or builtin"
    )
    heldout: Mapping[Name, str] = Field(
        {}, description="rows to evaluate on, by the data set's name; else a share of its rows is kept back"
    )
    models: Mapping[str, str] = Field(
        {},
        description="where this machine has a model that runs name: a folder of its own, by the run's model.source",
        json_schema_extra={"metavar": "SOURCE=FOLDER"},
    )
    weights: Literal["local", "edge"] | None = Field(
        None,
        description="where the model comes from: local (packaged, a folder, the hub) or edge, which sends what this "
        "client needs; default: local where it is on this machine already, else edge",
    )
    cache: Path | None = Field(
        None,
        description="folder for what edges send, which the clients of a machine may share; default: elsa/weights in "
        "the user's cache folder",
    )
    profiles: Path | None = Field(
        None,
        description="folder for what was measured of this machine; default: elsa/profiles in the user's cache folder",
    )
    max_cache_mib: int = Field(16384, ge=1, description="most disk for it; what was not used for longest goes first")
    threads: int = Field(1, ge=1, description="threads of the compute kernels: this role's share of the cores")
    max_memory_mib: int | None = Field(
        None,
        ge=1,
        description="most memory for a run's part of the model and for training it; a run that needs more is refused "
        "before anything is loaded; default: what is free",
    )
    max_bottom: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="most blocks before the cut that this client takes, however much memory and time it has; "
        "default: no limit",
    )
    edge_addresses: Mapping[Name, str] = Field(
        {},
        description="host:port at which this client reaches an edge, by the edge's name, where it is not the address "
        "that the cloud tells, as behind a tunnel or a relay",
        json_schema_extra={"metavar": "NAME=HOST:PORT"},
    )
    pace: str = Field(
        "1",
        description="for experiments with unequal devices: how many times slower than it can this client computes; "
        "1,3:4 is 4 times slower from version 3 of the adapter on",
    )
    patience_s: float = Field(120.0, gt=0, description="how long to go on asking a peer that does not answer")
    ready_file: Path | None = Field(None, description="written once this client is registered: JSON with its pid")

    @field_validator("pace")
    @classmethod
    def _pace_is_one(cls, text: str) -> str:
        try:
            Pace.parse(text)
        except SpecError as error:
            raise ValueError(str(error)) from error
        return text

    @property
    def cache_folder(self) -> Path:
        """Where what edges send is kept."""
        return self.cache or user_cache() / "elsa" / "weights"

    @property
    def profiles_folder(self) -> Path:
        """Where what was measured of this machine is kept."""
        return self.profiles or user_cache() / "elsa" / "profiles"

    @classmethod
    def load(cls, **given: object) -> "ClientSettings":
        """Settings from the environment; what is `given` and not None wins. Raises SpecError naming the field."""
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
        except ValidationError as error:
            raise SpecError(f"settings of the client (ELSA_...): {describe(error)}") from error
        except SettingsError as error:  # what is not even JSON
            raise SpecError(f"settings of the client: {_not_json()}") from error


def _not_json() -> str:
    for field, example in MAPPINGS.items():
        variable = f"ELSA_{field.upper()}"
        try:
            json.loads(os.environ.get(variable, "{}"))
        except ValueError as error:
            return f"{variable} is not JSON ({error}); give it like {example}"
    return "a variable cannot be read"
