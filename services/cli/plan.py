"""`elsa plan`: which blocks each device would carry and what a step would take, as tables, JSON or a picture."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from elsa.errors import InputError, SpecError
from services.cli.picture import check_file, check_picture
from services.cli.reach import Reach, with_reach

if TYPE_CHECKING:
    from elsa.plan.profile_file import Profiles
    from elsa.spec import RunSpec
    from services.cli.plan_figures import Figures
    from services.cli.planned import Planned

TEXT = """Show which blocks each device would carry in a run of SPEC, how long a step takes it so, and why.

Devices are those of a file (--profiles), or those of a run as they were
measured (--run). With neither, this machine measures itself, as a client and
as its edge, over a link that is assumed: what would it carry?

A file of profiles is JSON:

    {"edges": {"edge-1": {
        "block_s": 0.004, "memory_bytes": 8e9, "capacity": 8}},
     "clients": {"client-1": {
        "block_s": 0.02, "memory_bytes": 2e9,
        "links": {"edge-1": {"latency_ms": 8,
            "up_bytes_per_s": 2e6, "down_bytes_per_s": 2e7}}}}}

block_s: seconds of one block of the model, forward and backward, for all
rows of a batch; memory_bytes: what may be used. A client may also have
embeddings_s, head_s, codec_s, max_bottom and edge; without an edge it is
given the nearest with room. An edge may have crowding_s, by which block_s
grows with each further session, and step_s, what a step takes there besides
blocks. Beside the devices there may be row_tokens, the real
tokens of a row on average, and model, as --save writes it; with a model in
the file none is needed here.

Devices that cannot take part are shown with the reason, and the others are
planned. The status is 1 if nobody can.

Example: elsa plan examples/docstrings.yaml --save fleet.json

Example: elsa plan SPEC.yaml --profiles fleet.json --plot plan.png

Example: elsa plan SPEC.yaml --run docstrings-1 --cloud cloud.example:7400
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan", help=TEXT)(with_reach(plan))


def plan(
    spec: Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="The run's specification.")],
    reach: Reach,
    profiles: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Plan the devices of this file.")] = None,
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Plan the devices of this run of the cloud.")] = None,
    row_tokens: Annotated[
        float | None,
        typer.Option(min=1, max=2**31, help="Real tokens of a row on average, instead of what the devices say."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="This machine: threads to measure with.")] = 1,
    max_memory_mib: Annotated[
        int | None, typer.Option(min=1, help="This machine: most memory that it may use; else what is free.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write the profiles; an earlier file is replaced.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Also draw it; an earlier picture is replaced.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Plan, and show it."""
    from services.cli.plan_figures import figures_of_file, with_shape
    from services.cli.plan_table import print_plan
    from services.cli.planned import planned, profiles_of
    from services.cli.specification import read_specification

    if profiles is not None and run is not None:
        raise SpecError("--profiles and --run both say which devices to plan; give one of them")
    if plot is not None:
        check_picture(plot)
    if save is not None:
        check_file("--save", save)
    asked = read_specification(spec)
    if profiles is not None:
        figures = figures_of_file(profiles)
    elif run is not None:
        figures = _figures_of_run(run, reach)
    else:
        figures = _own_figures(asked, row_tokens, threads, max_memory_mib)
    found = planned(asked, with_shape(figures, asked, row_tokens))
    if as_json:
        typer.echo(json.dumps(found.as_json(), ensure_ascii=False, allow_nan=False))
    else:
        print_plan(found)
    if save is not None:
        _save(profiles_of(found), save, quietly=as_json)
    if plot is not None:
        _draw(found, plot, quietly=as_json)


def _figures_of_run(run: str, reach: Reach) -> "Figures":
    from services.cli.plan_figures import figures_of_run

    with reach.operator() as operator:
        return figures_of_run(operator.profiles(operator.resolve(run)))


def _own_figures(spec: "RunSpec", row_tokens: float | None, threads: int, max_memory_mib: int | None) -> "Figures":
    from services.cli.own_figures import own_figures

    return own_figures(spec, row_tokens, threads, max_memory_mib)


def _save(profiles: "Profiles", path: Path, *, quietly: bool) -> None:
    from elsa.plan.profile_file import profiles_to_json

    try:
        path.write_text(profiles_to_json(profiles), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}); choose another --save") from error
    typer.echo(f"{path} is written", err=quietly)


def _draw(found: "Planned", path: Path, *, quietly: bool) -> None:
    from services.cli.plan_picture import draw

    draw(found, path)
    typer.echo(f"{path} is written", err=quietly)
