"""`elsa demo`: a whole run on this machine."""

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from services.cli.flags import from_file, with_flags
from services.testbed.settings import DemoSettings

if TYPE_CHECKING:
    from services.cli.standings import Clusters
    from services.testbed.report import Report

TEXT = """Run everything on this machine: a cloud, edges and clients as processes; at the end a fine-tuned adapter.

The data is shared out to the clients, unlike each other, and some of it is kept for a test. The result is an adapter
that plain PEFT loads, a report and a figure.

Example: elsa demo --clients 4 --edges 2 --alpha 1 --output elsa-demo

Example: elsa demo --data reviews.csv --text review --label stars --rounds 5 --bottom 2 --top 1

With --clusters the clients come in as many groups as there are edges, unlike each other by label; the cloud is not
told, and finds who should learn with whom.

Example: elsa demo --clusters --output elsa-clusters

With --speeds and --memory-mib the clients' devices are unlike, and each keeps as many blocks as a plan made from what
they measure gives it; with --latency-ms and --mbit each has a link of its own. Text and labels stay where they are.

Example: elsa demo --speeds 1,2,4,8 --memory-mib 300,600,1024,2048 --mbit 10,100 --latency-ms 20,5
"""

TURNED = """  The edges received activations turned (SS-OP, edge: blind), and the trunk that they trained lives in
  turned coordinates. Plain PEFT does not turn: its figure above says little; go by the accuracy of the rounds."""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo", help=TEXT)(with_flags(DemoSettings, demo))


def demo(given: Mapping[str, Any], file: Path | None) -> None:
    """Run a demo and print what it found."""
    from elsa.parsing import parse

    settings = parse(DemoSettings, {**from_file(file), **given}, "settings of the demo")
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is loaded, which is below; threads here are our own
    from services.testbed.demo import run

    with _ended_as_by_ctrl_c():
        report = run(settings, typer.echo)
    _print(report, settings.output)
    if report.clusters is not None:
        _print_groups(settings, report.run_id, report.clusters)


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """Within it, SIGTERM and a closed terminal interrupt as Ctrl-C does, so that no process is left behind."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _print_groups(settings: DemoSettings, run_id: str, found: "Clusters") -> None:
    """What each client was given, and who the cloud found should learn with whom."""
    from services.cli.clusters import print_clusters
    from services.cli.data import print_shares
    from services.cli.shards import file_name, read_all

    files = [file_name(number) for number in range(1, settings.clients + 1)]
    typer.echo("\nwhat the clients were given, in shares of each label")
    print_shares({name: read_all(str(settings.output / "data" / name)) for name in files}, settings.label)
    typer.echo("who learned with whom")
    print_clusters(run_id, found)
    own = f" and the adapters of {len(found.scores)} clusters" if found.scores else ""
    typer.echo(f"\nclusters.png{own} are in {settings.output}" if own else f"\nclusters.png is in {settings.output}")


def _print(report: "Report", output: Path) -> None:
    from rich.console import Console

    from services.cli.events import size
    from services.cli.versions import rounds_table

    marks = report.yardsticks
    Console().print(rounds_table(report.versions))
    typer.echo("accuracy and loss by round are on the clients' own held-out rows; all steps went through the split")
    if report.clusters is not None:
        typer.echo("own: accuracy with the adapter of each client's cluster, on the same rows")
    typer.echo(f"\naccuracy on {marks.test_rows} test rows that no client saw")
    typer.echo(f"  {marks.adapter:.3f}  the fine-tuned adapter, loaded by plain PEFT")
    typer.echo(f"  {marks.frozen_head:.3f}  the frozen model with only a head trained, on what the head is given (*)")
    typer.echo(f"  {marks.majority:.3f}  always the commonest label")
    typer.echo(
        f"  (*) logistic regression to convergence, on {marks.frozen_head_rows} training rows of all clients together"
    )
    if report.trunk_is_turned:
        typer.echo(TURNED)
    phases = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in report.phase_seconds().items())
    sent = f"{size(report.wire_bytes)} of activations and gradients"
    if report.saving is not None:
        sent += f", 1/{report.saving:.1f} of the {size(report.float32_bytes)} that float32 takes"
    typer.echo(f"\n{sent}\nseconds, summed over clients: {phases}")
    typer.echo(f"{report.seconds:.0f} s in all; report.json, training.png, logs and data are in {output}")
    if not report.trunk_is_turned:
        typer.echo(f'try it: elsa predict {output / "adapter"} "Return the inverse of a square matrix."')
