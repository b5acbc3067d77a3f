"""A client of which a testbed runs several alike: it takes a name that is free, and becomes `elsa client`.

A name of the pool comes with a folder of TLS files and a file of rows. Who has it holds a lock on that folder as long
as the process lives; the lock is the kernel's, so however the process ends the name is free again. All replicas see
the whole pool, which is why a testbed's clients of unlike kind have folders of their own instead.
"""

import fcntl
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from elsa.errors import CapacityError, ElsaError
from elsa.parsing import describe

CLIENT = ("-m", "services.cli", "client")


class ReplicaSettings(BaseSettings):
    """Settings of a replica, beside those of the client that it becomes."""

    model_config = SettingsConfigDict(env_prefix="ELSA_REPLICA_", frozen=True)

    identities: Path = Field(description="folder of the pool: NAME/ca.pem, tls.pem and tls.key")
    rows: Path = Field(description="folder of the pool's rows: NAME/rows.jsonl")
    dataset: str = Field("corpus", min_length=1, description="what runs call these rows")


def pool_names(size: int) -> list[str]:
    """The names of a pool of so many."""
    return [f"client-{number}" for number in range(1, size + 1)]


def claim(identities: Path) -> tuple[str, int]:
    """A name that nobody has, and the open lock on it, which its holder must keep.

    Raises:
        CapacityError: all are taken, or there are none.
    """
    names = sorted((path.name for path in identities.glob("*/")), key=lambda name: (len(name), name))
    for name in names:
        lock = os.open(identities / name, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return name, lock
        except BlockingIOError:
            os.close(lock)
    raise CapacityError(
        f"all {len(names)} names in {identities} are taken; start fewer replicas, or enlarge the pool"
    )


def environment(settings: ReplicaSettings, name: str) -> Mapping[str, str]:
    """What makes a client of this name of `elsa client`."""
    own = settings.identities / name
    return {
        "ELSA_NAME": name,
        "ELSA_TLS_CA": str(own / "ca.pem"),
        "ELSA_TLS_CERT": str(own / "tls.pem"),
        "ELSA_TLS_KEY": str(own / "tls.key"),
        "ELSA_DATA": json.dumps({settings.dataset: str(settings.rows / name / "rows.jsonl")}),
    }


def main() -> int:
    """Take a name and become a client; the exit status if that fails."""
    try:
        settings = ReplicaSettings()
        become(settings, *claim(settings.identities))
    except ValidationError as error:
        said = f"settings of the replica (ELSA_REPLICA_...): {describe(error)}"
    except ElsaError as error:
        said = str(error)
    sys.stderr.write(f"error: {said}\n")
    return 1


def become(settings: ReplicaSettings, name: str, lock: int) -> NoReturn:
    """Go on as `elsa client` of this name, which holds the lock from now on."""
    os.set_inheritable(lock, True)
    os.execve(sys.executable, [sys.executable, *CLIENT], {**os.environ, **environment(settings, name)})


if __name__ == "__main__":
    sys.exit(main())
