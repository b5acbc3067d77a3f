"""A plan as tables for people: a line a client, a line an edge, and who takes no part."""

from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING

import typer

from elsa.plan.result import ClientPlan
from elsa.plan.steps import step_seconds_of
from services.cli.planned import Planned

if TYPE_CHECKING:
    from rich.table import Table

PIPE_WIDTH = 10_000
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
    _print(_edges(found))
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

    console, narrow = Console(), _clients(found, with_reasons=False)
    needed = console.measure(narrow, options=console.options.update(width=PIPE_WIDTH)).maximum
    if not console.is_terminal or console.width >= needed + REASON_WIDTH:
        _print(_clients(found, with_reasons=True))
        return
    _print(narrow)
    who: dict[str, list[str]] = {}
    for client in found.clients:
        who.setdefault(_why(client), []).append(client.name)
    typer.echo("".join(f"{why}: {', '.join(names)}\n" for why, names in who.items()))


def _print(table: "Table") -> None:
    """Nothing is cut off; in a pipe a device stays on its line."""
    from rich.console import Console

    console = Console()
    whole = console.measure(table, options=console.options.update(width=PIPE_WIDTH))
    width = max(console.width, whole.minimum) if console.is_terminal else PIPE_WIDTH
    Console(width=width).print(table)


def _clients(found: Planned, *, with_reasons: bool) -> "Table":
    from rich.text import Text

    unit, said = _times(found)
    steps = ("steps",) if found.steps is not None else ()
    phases = ("bottom", "network", "wait", "trunk", "top")
    table = _table(("client", "edge", "split"), ("MiB", "block", *phases, f"step {unit}", *steps))
    table.add_column("hangs on", no_wrap=not with_reasons)
    for before, client in zip((None, *found.clients), found.clients, strict=False):
        if before is not None and before.edge != client.edge:
            table.add_section()
        profile, now = found.profiles[client.name], found.before(client)
        cells = (
            *(client.name, client.edge, f"{now} -> {client.split}" if now else str(client.split)),
            _memory(client.need.total, profile.memory_bytes),
            *map(said, (profile.block_s, *astuple(client.seconds), step_seconds_of(client))),
            *(() if found.steps is None else (str(found.steps[client.name]),)),
            _why(client) if with_reasons else client.bound,
        )
        table.add_row(*map(Text, cells))  # others' words: no markup
    return table


def _edges(found: Planned) -> "Table":
    from rich.text import Text

    unit, said = _times(found)
    table = _table(("edge",), ("clients", "MiB", "block", "load", f"step {unit}"))
    table.add_column("plan")
    for name, profile in sorted(found.edges.items()):
        edge = found.plan.edges.get(name)
        if edge is None:
            cells = (name, f"0/{profile.capacity}", "–", said(profile.block_s), "–", "–", "serves nobody")
        else:
            busy = f"{said(edge.load_s)} ({edge.load_s / edge.expected_s:.0%})"
            memory = _memory(edge.need.total, profile.memory_bytes)
            figures = (memory, said(profile.block_s), busy, said(edge.expected_s))
            cells = (name, f"{edge.sessions}/{profile.capacity}", *figures, edge.note)
        table.add_row(*map(Text, cells))
    return table


def _table(left: Sequence[str], right: Sequence[str]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in left:
        table.add_column(heading, no_wrap=True)
    for heading in right:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _times(found: Planned) -> tuple[str, Callable[[float], str]]:
    """One unit for all times of a table, and how they are written in it."""
    if found.step_s < IN_MS_BELOW_S:
        return "ms", lambda seconds: f"{1e3 * seconds:.1f}"
    return "s", lambda seconds: f"{seconds:.2f}"


def _memory(needed: int, there: int) -> str:
    return f"{needed / 2**20:.0f}/{there / 2**20:.0f}"


def _why(client: ClientPlan) -> str:
    return f"{client.bound}: {' '.join(client.reason.split())}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
