"""What the owner of a site decides, from flags, environment (`ELSA_…`) or YAML."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from elsa.errors import SpecError
from elsa.parsing import Name, describe


class ClientSettings(BaseSettings):
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
    max_cache_mib: int = Field(16384, ge=1, description="most disk for it; what was not used for longest goes first")
    threads: int = Field(1, ge=1, description="threads of the compute kernels: this role's share of the cores")
    patience_s: float = Field(120.0, gt=0, description="how long to go on asking a peer that does not answer")
    ready_file: Path | None = Field(None, description="written once this client is registered: JSON with its pid")

    @property
    def cache_folder(self) -> Path:
        """Where what edges send is kept."""
        return self.cache or _user_cache() / "elsa" / "weights"

    @classmethod
    def load(cls, **given: object) -> "ClientSettings":
        """Settings from the environment; what is `given` and not None wins. Raises SpecError naming the field."""
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
        except ValidationError as error:
            raise SpecError(f"settings of the client (ELSA_...): {describe(error)}") from error
        except SettingsError as error:  # what is not even JSON
            raise SpecError(f"settings of the client: {_not_json()}") from error


def _user_cache() -> Path:
    """The platform's folder for what can be had again."""
    if sys.platform == "darwin":
        return Path("~/Library/Caches").expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def _not_json() -> str:
    for field in ("data", "heldout"):
        variable = f"ELSA_{field.upper()}"
        try:
            json.loads(os.environ.get(variable, "{}"))
        except ValueError as error:
            return f'{variable} is not JSON ({error}); give it like {{"reviews": "rows.jsonl"}}'
    return "a variable cannot be read"
