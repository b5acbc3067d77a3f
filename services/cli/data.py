"""`elsa data …`: share a data set out to clients' files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from elsa.errors import SpecError
from services.cli.printing import print_table

"""Of a table that no terminal shows: a file stays on its line, whole."""


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Prepare data.")
    group.callback()(_group)
    group.command("partition")(partition)
    app.add_typer(group, name="data")


def _group() -> None:
    """Prepare data."""


def partition(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="FILE.jsonl|.csv|.parquet, hf:NAME, or builtin.")],
    parts: Annotated[int, typer.Option(help="Number of clients.")],
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="A new or empty folder.")],
    alpha: Annotated[
        float | None, typer.Option(help="Skew by label: Dirichlet concentration; 0.1 is strong, 100 is none.")
    ] = None,
    iid: Annotated[bool, typer.Option("--iid", help="Share out at random; the default.")] = False,
    by: Annotated[str | None, typer.Option(metavar="COLUMN", help="Rows with equal values stay together.")] = None,
    label: Annotated[str, typer.Option(metavar="COLUMN", help="Column of the label.")] = "label",
    holdout: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of the rows for test.jsonl, kept from all clients.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same files.")] = 0,
) -> None:
    """Share a data set out to client-1.jsonl, client-2.jsonl … and, with --holdout, test.jsonl.

    Example: elsa data partition reviews.csv --parts 8 --alpha 0.5 --holdout 0.2 --to shards
    """
    from services.cli.shards import Plan, read_all, share_out, write_folder

    chosen = [
        flag for flag, is_set in (("--alpha", alpha is not None), ("--iid", iid), ("--by", by is not None)) if is_set
    ]
    if len(chosen) > 1:
        raise SpecError(f"{' and '.join(chosen)} exclude each other; give one of them")
    if not 0 <= holdout < 1:
        raise SpecError(f"--holdout {holdout:g} is no share of the rows; give a number from 0 to below 1")
    plan = Plan(parts=parts, alpha=alpha, by=by, label=label, holdout=holdout, seed=seed)
    files = share_out(read_all(source), plan)
    write_folder(to, files)
    print_shares(files, label)
    typer.echo(f"{len(files)} files are in {to}")


def print_shares(files: Mapping[str, Sequence[Mapping[str, object]]], label: str) -> None:
    """Print a line a file: its rows and the share of each label."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from services.cli.shards import label_shares

    shares = {name: label_shares(rows, label) for name, rows in files.items()}
    labels = sorted({name for held in shares.values() for name in held})
    shown = labels[:10]  # more would not fit a terminal
    more = ["…"] if len(labels) > len(shown) else []
    table = Table("file", "rows", box=box.SIMPLE_HEAD)
    for name in [*shown, *more]:
        table.add_column(Text(name))  # others' words: no markup
    for name, rows in files.items():
        table.add_row(name, str(len(rows)), *(f"{shares[name].get(one, 0):.2f}" for one in shown))
    print_table(table)
