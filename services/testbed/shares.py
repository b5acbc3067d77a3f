"""The rows of a testbed of containers, as a one-shot: the built-in corpus shared out, a folder for each client.

    NAME/rows.jsonl  replicas/client-N/rows.jsonl

A container gets its own folder alone to see. Done again it keeps what is there.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from elsa.data.source import Row
from elsa.data.write import write_jsonl
from elsa.errors import DataError, ElsaError
from services.cli.shards import Plan, read_all, share_out
from services.rpc.process import set_up_logging
from services.testbed.authority import REPLICAS
from services.testbed.replica import pool_names

log = logging.getLogger(__name__)

ROWS = "rows.jsonl"
ALPHA = 1.0
"""How unlike the clients are: as in `elsa demo`."""


def share(folder: Path, owners: Sequence[Path], rows: Sequence[Row]) -> None:
    """Write each owner's rows to its folder, whole, the same for the same owners and rows. Raises DataError."""
    parts = share_out(rows, Plan(parts=len(owners), alpha=ALPHA, min_rows=2)).values()
    for owner, part in zip(owners, parts, strict=True):
        (folder / owner).mkdir(parents=True, exist_ok=True)
        aside = folder / owner / f".new.{ROWS}"
        write_jsonl(aside, part)
        aside.replace(folder / owner / ROWS)


def main(arguments: list[str] | None = None) -> int:
    """`python -m services.testbed.shares FOLDER NAME … [--replicas N]`; the exit status."""
    parser = argparse.ArgumentParser(description="Share the built-in corpus out to a testbed's clients.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument(
        "--replicas", type=int, default=0, metavar="N", help="further clients, with names to be taken"
    )
    given = parser.parse_args(arguments)
    set_up_logging()
    owners = [*map(Path, given.names), *(Path(REPLICAS) / name for name in pool_names(given.replicas))]
    if all((given.folder / owner / ROWS).is_file() for owner in owners):
        log.info("%d clients have their rows in %s", len(owners), given.folder)
        return 0
    try:
        share(given.folder, owners, read_all("builtin"))
    except (ElsaError, OSError) as error:
        said = error if isinstance(error, ElsaError) else DataError(f"{given.folder}: cannot be written ({error})")
        sys.stderr.write(f"error: {said}\n")
        return 1
    log.info("rows of %d clients are written in %s", len(owners), given.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
