"""`elsa clusters`: who learns with whom in a run, how far each is trusted, and why; as a table, JSON or a picture."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.picture import check_picture
from services.cli.printing import print_table
from services.cli.reach import Reach, with_reach
from services.cli.run import RunId

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from services.cli.standings import Clusters, Standing

NO_SCORES = "no cluster's own adapter has been evaluated: it takes a closed round, and two of its clients at one edge"
LEGEND = (
    "ms: latency to the edge. Trust is made of cons: a client's answers to probes agree with its neighbours'; rept:\n"
    "with its own when asked twice; orig: its fingerprint is no other's; updt: its updates agree with its\n"
    "cluster's. –: it gave no fingerprint."
)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("clusters")(with_reach(clusters))


def clusters(
    run: RunId,
    reach: Reach,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Also draw it; an earlier picture is replaced.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead, with the divergences.")] = False,
) -> None:
    """Show who learns with whom: each client's cluster, edge, trust, latency and why.

    Trust is from 0 to 1 and made of four parts, which are shown beside it.
    Clients below 0.5 are marked "low trust"; updates of one that is "set aside"
    do not count. Below the table stands how good the run's adapter is for each
    cluster, and the cluster's own, on rows that its clients keep back. The run
    must have been through CLUSTERING.

    The picture shows how far apart each two clients behave, ordered by cluster
    (dark: alike), beside a map of clients and their edges; above 400 clients
    the map alone.

    Example: elsa clusters docstrings-1

    Example: elsa clusters docstrings-1 --cloud cloud.example:7400 --plot clusters.png
    """
    from services.cli.standings import clusters_from_proto

    if plot is not None:
        check_picture(plot)
    with reach.operator() as operator:
        run_id = operator.resolve(run)
        found = clusters_from_proto(operator.clusters(run_id))
    if as_json:
        typer.echo(json.dumps({"run": run_id, **found.as_json()}, ensure_ascii=False, allow_nan=False))
    else:
        print_clusters(run_id, found)
    if plot is not None:
        _draw(found, plot, quietly=as_json)


def _draw(found: "Clusters", path: Path, *, quietly: bool) -> None:
    from services.cli.cluster_picture import draw
    from services.cli.standings import MOST_DIVERGENCES

    draw(found, path)
    said = f"{path} is written"
    if found.divergence is None:
        many = len(found.clients) > MOST_DIVERGENCES
        reason = f" for more than {MOST_DIVERGENCES} clients" if many else ""
        said += f", the map alone: the cloud gives no divergences{reason}"
    typer.echo(said, err=quietly)


def print_clusters(run_id: str, found: "Clusters") -> None:
    """Print who learns with whom: a line a client, how it was decided, and a line a cluster."""
    print_table(_table(found))
    groups = f"{found.count} cluster{'' if found.count == 1 else 's'} of {len(found.clients)} clients"
    typer.echo(f"run {run_id}, from version {found.version} on: {groups}\n{found.how}\n")
    typer.echo("\n".join([*found.lines(), *([] if found.scores else [NO_SCORES]), "", LEGEND]))


def _table(found: "Clusters") -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("client", "cluster", "edge"):
        table.add_column(heading, no_wrap=True)
    for heading in ("trust", "cons", "rept", "orig", "updt", "ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("why")
    for before, standing in zip((None, *found.clients), found.clients, strict=False):
        if before is not None and before.cluster != standing.cluster:
            table.add_section()
        table.add_row(*_cells(standing), style="red" if standing.mark else None)
    return table


def _cells(standing: "Standing") -> "list[Text]":
    from rich.text import Text

    from services.cli.standings import PARTS

    parts = standing.parts
    why = f"{standing.mark}: {standing.why}" if standing.mark else standing.why
    cells = (
        *(standing.client, str(standing.cluster), standing.edge, f"{standing.trust:.2f}"),
        *("–" if parts is None else f"{parts[name]:.2f}" for name in PARTS),
        *(f"{standing.latency_ms:.1f}", why),
    )
    return [Text(cell) for cell in cells]  # others' words: no markup
