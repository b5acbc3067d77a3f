"""Tables on standard output: nothing is cut off."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

PIPE_WIDTH = 10_000


def print_table(table: "Table") -> None:
    """Print a table as wide as the terminal, or wider where its words need it; in a pipe a row is one line."""
    from rich.console import Console

    console = Console()
    least = console.measure(table, options=console.options.update(width=PIPE_WIDTH)).minimum
    Console(width=max(console.width, least) if console.is_terminal else PIPE_WIDTH).print(table)
