"""The testbed's run: submitted, followed and fetched, once, however often its container is started meanwhile.

With arguments it is `elsa` with those. Without, it submits the specification and keeps the run's id on its volume,
under the container's own name, until the run has ended and its adapter is there: a container that is started again
before that (`docker compose restart`) follows the same run.
"""

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import typer
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from elsa.errors import ElsaError, UnreachableError
from elsa.parsing import describe
from services.cli.operator import Operator
from services.cli.reach import Reach
from services.cli.run import follow
from services.cli.specification import read_specification

SPEC = Path("/etc/elsa/run.yaml")
VOLUME = Path("/var/lib/elsa")
INTERRUPTED = 130


class SubmissionSettings(BaseSettings):
    """How the cloud is reached, as `elsa run` is told it."""

    model_config = SettingsConfigDict(env_prefix="ELSA_", frozen=True)

    cloud: str = Field(description="the cloud's address")
    patience_s: float = Field(300.0, ge=0, description="for how long a silent cloud is asked: all may start at once")
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def operator(self) -> Operator:
        """A link to the cloud. Raises the errors of `Reach.operator`."""
        return Reach(
            cloud=self.cloud,
            patience=self.patience_s,
            tls_ca=self.tls_ca,
            tls_cert=self.tls_cert,
            tls_key=self.tls_key,
        ).operator()


def submitted(operator: Operator, spec: Path, note: Path, adapters: Path) -> int:
    """Submit the run unless `note` names it, follow it, and write its adapter; the exit status, 0 if it completed.

    The note is gone afterwards, but where the run may go on unseen: after an interrupt, or a cloud that stays away.
    Raises ElsaError.
    """
    try:
        if note.exists():
            run_id = note.read_text(encoding="utf-8")
            typer.echo(f"goes on with run {run_id}, which this container submitted before it was restarted")
        else:
            run_id = operator.submit(read_specification(spec).to_yaml())
            keep(note, run_id)
            typer.echo(f"run {run_id}")
        status = follow(operator, run_id)
        if status == 0:
            operator.export(run_id, adapters / run_id)
            typer.echo(f"{adapters / run_id} is written")
    except UnreachableError:
        raise
    except ElsaError:
        note.unlink(missing_ok=True)
        raise
    note.unlink(missing_ok=True)
    return status


def keep(note: Path, run_id: str) -> None:
    """Write the run's id, whole or not at all."""
    aside = note.with_suffix(".new")
    aside.write_text(run_id, encoding="utf-8")
    aside.rename(note)


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    if arguments:
        os.execv(sys.executable, [sys.executable, "-m", "services.cli", *arguments])
    try:
        with SubmissionSettings().operator() as operator:
            return submitted(operator, SPEC, VOLUME / f".run-of-{socket.gethostname()}", VOLUME / "adapters")
    except ValidationError as error:
        said = f"settings (ELSA_...): {describe(error)}"
    except ElsaError as error:
        said = str(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    sys.stderr.write(f"error: {said}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
