"""A plan as tables for people: a line a client, a line an edge, and who takes no part."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import astuple, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import typer

from elsa.plan.result import ClientPlan
from elsa.plan.steps import step_seconds_of
from elsa.train.phases import PhaseSeconds
from services.cli.planned import Planned
from services.cli.printing import print_table

if TYPE_CHECKING:
    from rich.table import Table

PHASES = tuple(one.name for one in fields(PhaseSeconds))
REASON_WIDTH = 50
"""Columns below which reasons go under the table of a terminal."""
IN_MS_BELOW_S = 10.0
"""Steps that take less are told in milliseconds."""
LEGEND = (
    "split: blocks that the client keeps at the bottom / that its edge runs / that it keeps at the top.\n"
    "MiB: memory that the part needs, of what may be used. block: one of the model's blocks at that device, for a\n"
    "batch. wait: while the edge computes for others. load: what the edge computes while each client does a step."
)


def print_plan(found: Planned) -> None:
    """Print a plan, the summary first."""
    typer.echo("\n".join([summary(found), _work(found), *found.notes]))
    _print_clients(found)
    print_table(_edges(found))
    refused = found.plan.refused
    if refused:
        typer.secho(f"{len(refused)} refused", fg=typer.colors.RED)
        typer.echo("".join(f"  {' '.join(str(refusal).split())}\n" for refusal in refused))
    typer.echo(LEGEND)


def summary(found: Planned) -> str:
    """What comes out, on one line."""
    plan, clients = found.plan, len(found.plan.clients)
    slowest = max(plan.edges.values(), key=lambda edge: edge.expected_s)
    out_of = clients + len({refusal.name for refusal in plan.refused if refusal.role == "client"})
    said = (
        f"{clients} of {_count(out_of, 'client')} can take part, at {_count(len(plan.edges), 'edge')}; "
        f"a step of all takes {duration(found.step_s)}"
    )
    longest = f", the longest at {slowest.name}" if len(plan.edges) > 1 else ""
    changed = sum(bool(found.before(client)) for client in found.clients)
    changes = f"; {_count(changed, 'split')} would change" if found.problem.previous else ""
    return said + longest + changes


def _work(found: Planned) -> str:
    work, blocks = found.problem.workload, found.problem.model.blocks
    return f"a model of {blocks} blocks; {_count(work.rows, 'row')} of {work.row_tokens:.3g} tokens a step"


def duration(seconds: float) -> str:
    """Three digits in the unit that suits."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _print_clients(found: Planned) -> None:
    """Reasons stand in the table where there is room for them, else below it."""
    from rich.console import Console

    left, right = ("client", "edge", "split"), ("MiB", "block", *PHASES, f"step {_times(found)[0]}")
    right += ("steps",) if found.steps is not None else ()
    edges = [client.edge for client in found.clients]
    ends = {row for row, (edge, following) in enumerate(pairwise(edges)) if edge != following}
    cells = [_cells(found, client) for client in found.clients]
    whole = [(*own, f"{one.bound}: {_why(one)}") for own, one in zip(cells, found.clients, strict=True)]
    console = Console()
    if not console.is_terminal or console.width >= sum(_widths((*left, *right, ""), cells)) + REASON_WIDTH:
        print_table(_table(left, right, "hangs on", whole, ends))
        return
    bounds = [(*own, client.bound) for own, client in zip(cells, found.clients, strict=True)]
    print_table(_table(left, right, "hangs on", bounds, ends))
    who: dict[str, list[str]] = {}
    for client in found.clients:
        who.setdefault(f"{client.bound}: {_why(client)}", []).append(client.name)
    typer.echo("".join(f"{why}: {', '.join(names)}\n" for why, names in who.items()))


def _cells(found: Planned, client: ClientPlan) -> tuple[str, ...]:
    """All of a client but the reason."""
    profile, now, said = found.profiles[client.name], found.before(client), _times(found)[1]
    return (
        *(client.name, client.edge, f"{now} -> {client.split}" if now else str(client.split)),
        _memory(client.need.total, profile.memory_bytes),
        *map(said, (profile.block_s, *astuple(client.seconds), step_seconds_of(client))),
        *(() if found.steps is None else (str(found.steps[client.name]),)),
    )


def _edges(found: Planned) -> "Table":
    unit, said = _times(found)
    rows: list[tuple[str, ...]] = []
    for name, profile in sorted(found.edges.items()):
        edge = found.plan.edges.get(name)
        if edge is None:
            rows.append((name, f"0/{profile.capacity}", "–", said(profile.block_s), "–", "–", "serves nobody"))
            continue
        busy = f"{said(edge.load_s)} ({edge.load_s / edge.expected_s:.0%})"
        memory = _memory(edge.need.total, profile.memory_bytes)
        figures = (memory, said(profile.block_s), busy, said(edge.expected_s))
        rows.append((name, f"{edge.sessions}/{profile.capacity}", *figures, " ".join(edge.note.split())))
    return _table(("edge",), ("clients", "MiB", "block", "load", f"step {unit}"), "plan", rows)


def _table(
    left: Sequence[str],
    right: Sequence[str],
    last: str,
    rows: Sequence[Sequence[str]],
    ends: Collection[int] = (),
) -> "Table":
    """Rows of cells, of which only the last may be broken; after those of `ends` a new section begins."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading, width in zip((*left, *right), _widths((*left, *right, last), rows), strict=False):
        justify: Literal["left", "right"] = "left" if heading in left else "right"
        table.add_column(heading, justify=justify, no_wrap=True, min_width=width)
    table.add_column(last, min_width=len(last))
    for number, row in enumerate(rows):
        table.add_row(*map(Text, row), end_section=number in ends)  # others' words: no markup
    return table


def _widths(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Of each column that all rows have."""
    return [max(map(len, column)) for column in zip(headings, *rows, strict=False)]


def _times(found: Planned) -> tuple[str, Callable[[float], str]]:
    """One unit for all times of a table, and how they are written in it."""
    if found.step_s < IN_MS_BELOW_S:
        return "ms", lambda seconds: f"{1e3 * seconds:.1f}"
    return "s", lambda seconds: f"{seconds:.2f}"


def _memory(needed: int, there: int) -> str:
    return f"{needed / 2**20:.0f}/{there / 2**20:.0f}"


def _why(client: ClientPlan) -> str:
    return " ".join(client.reason.split())


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
