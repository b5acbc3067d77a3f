"""`elsa run …`: submit, watch, show, list, cancel and export runs of a cloud."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from elsa.errors import InputError
from services.cli.printing import print_table
from services.cli.reach import Reach, with_reach

if TYPE_CHECKING:
    from elsa.v1 import run_pb2
    from services.cli.operator import Operator

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id, or its first characters.")]
RUN = "{run}"
MOST = 2**32 - 1
"""What a message holds of a version or a cluster."""


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    runs = typer.Typer(help="Submit, watch, show, list, cancel and export the runs of a cloud.")
    for name, command in (
        ("submit", submit),
        ("watch", watch),
        ("show", show),
        ("list", list_runs),
        ("cancel", cancel),
    ):
        runs.command(name)(with_reach(command))
    runs.command("export")(with_reach(export))
    app.add_typer(runs, name="run")


def submit(
    spec: Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="The run's specification.")],
    reach: Reach,
    probes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Probes of your own, one sentence a line, for a run that clusters."),
    ] = None,
    watch: Annotated[bool, typer.Option(help="Follow the run to its end.")] = True,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Export the adapter there once the run completes; {run} in it stands for the run's id.",
        ),
    ] = None,
) -> int:
    """Submit a run, print its id, and follow it.

    Example: elsa run submit examples/text-classification.yaml --cloud cloud.example:7400

    Example: elsa run submit examples/docstrings.yaml --to adapters/{run}
    """
    from services.cli.specification import read_specification

    parsed = read_specification(spec, probes)
    if to is not None:
        check_free(to, watch=watch)
    with reach.operator() as operator:
        run_id = operator.submit(parsed.to_yaml())
        typer.echo(f"run {run_id}")
        status = follow(operator, run_id) if watch else 0
        if status == 0 and to is not None:
            folder = Path(to.replace(RUN, run_id))
            operator.export(run_id, folder)
            typer.echo(f"{folder} is written")
        return status


def check_free(to: str, *, watch: bool) -> None:
    """Raise InputError if the adapter could not be put there later: somebody's files are there, or nobody waits."""
    if not watch:
        raise InputError("--to: nobody waits for the adapter with --no-watch; leave one of them out")
    folder = Path(to)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"--to {folder}: exists and is not empty; choose another, such as adapters/{RUN}")


def watch(run: RunId, reach: Reach) -> int:
    """Follow a run from its first event to its end; exit 0 if it completes, 1 if it fails or is cancelled.

    On a terminal it is one view that changes, elsewhere a line an event. A split reads bottom/trunk/top: blocks that
    the client keeps at the bottom, that its edge runs, that the client keeps at the top. Accuracy is of the run's
    adapter on rows that clients keep back; "own" is that of the adapter of each client's cluster, where there is one.

    Example: elsa run watch docstrings-1
    """
    with reach.operator() as operator:
        return follow(operator, operator.resolve(run))


def show(run: RunId, reach: Reach) -> None:
    """Show a run as it stands now: its state, its rounds, who takes part and who does not.

    A split reads bottom/trunk/top; below stand who is not in a round, and changes of trust, clusters and splits.

    Example: elsa run show docstrings-1
    """
    from rich.console import Console

    from services.cli.board import Board

    with reach.operator() as operator:
        run_id = operator.resolve(run)
        events = operator.so_far(run_id)
    board = Board(run_id, notices=None)
    for event in events:
        board.add(event)
    Console().print(board.render())


def list_runs(reach: Reach) -> None:
    """List all runs, newest first, with the newest accuracy on rows that clients keep back, and whom it is of.

    Where it is not that of the version to be exported its own version stands behind it: 0.912 v3.

    Example: elsa run list --cloud cloud.example:7400
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from services.cli.events import behind, state_word

    with reach.operator() as operator:
        runs = operator.list()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("run", "state", "round", "clients", "edges", "accuracy", "evaluated by", "submitted"):
        table.add_column(heading, no_wrap=heading in ("run", "state", "accuracy", "submitted"))
    for run in runs:
        newest = run.evaluations[-1] if run.evaluations else None
        by = behind(newest.clients, newest.rows) if newest else "–"
        begun = time.strftime("%m-%d %H:%M", time.localtime(run.created_unix_s))
        members = (str(len(run.client_ids)), str(len(run.edge_ids)))
        table.add_row(
            *(Text(cell) for cell in (run.run_id, state_word(run.state))),
            *(f"{run.version}/{run.rounds}", *members, _accuracy(run), by, begun),
        )
    if runs:
        print_table(table)
    else:
        typer.echo("no runs yet; elsa run submit SPEC.yaml makes one")


def _accuracy(run: "run_pb2.Run") -> str:
    """The newest; with its version where that is not the one that `elsa run export` takes."""
    if not run.evaluations:
        return "–"
    newest = run.evaluations[-1]
    exported = run.best_version if run.HasField("best_version") else run.version
    return f"{newest.accuracy:.3f}" + (f" v{newest.version}" if newest.version != exported else "")


def cancel(run: RunId, reach: Reach) -> None:
    """End a run; its nodes stop working on it.

    Example: elsa run cancel docstrings-1
    """
    with reach.operator() as operator:
        run_id = operator.resolve(run)
        operator.cancel(run_id)
        typer.echo(f"run {run_id} is cancelled")


def export(
    run: RunId,
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to write it; an earlier export is replaced.")],
    reach: Reach,
    version: Annotated[
        int | None, typer.Option(min=0, max=MOST, help="Global version; the newest if not given.")
    ] = None,
    cluster: Annotated[
        int | None, typer.Option(min=0, max=MOST, help="The adapter of this cluster's clients; else that of all.")
    ] = None,
) -> None:
    """Write a run's adapter as a folder that plain PEFT loads.

    Example: elsa run export docstrings-1 --to adapter

    Example: elsa run export docstrings-1 --cluster 0 --to adapter-of-cluster-0
    """
    from services.cli.folder import check_place

    check_place(to)
    with reach.operator() as operator:
        operator.export(operator.resolve(run), to, version=version, cluster=cluster)
    typer.echo(f'{to} is written; try it: elsa predict {to} "some text"')


def follow(operator: "Operator", run_id: str) -> int:
    """Show a run's events until it has ended; the exit status: 0 only if it completed."""
    from elsa.v1 import fleet_pb2
    from services.cli.board import Board, shown

    board = Board(run_id)
    try:
        with shown(board) as show:
            for event in operator.watch(run_id):
                board.add(event)
                show(event)
    except KeyboardInterrupt:
        typer.echo(
            f"run {run_id} goes on: elsa run watch {run_id} follows it, elsa run cancel {run_id} ends it", err=True
        )
        raise
    if board.state == fleet_pb2.RUN_STATE_COMPLETED:
        return 0
    typer.secho(f"error: {board.ending()}", fg=typer.colors.RED, err=True)
    return 1
