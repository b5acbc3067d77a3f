"""`elsa audit`: what an edge that is curious recovers, and what hiding it costs."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from elsa.errors import DataError, SpecError

if TYPE_CHECKING:
    from elsa.data.source import Row
    from elsa.privacy.audit.audit import Audit, Material, Told
    from elsa.privacy.audit.report import Report
    from elsa.privacy.audit.settings import Setting
    from elsa.spec import RunSpec

ROWS, STEPS, QUICK_ROWS, QUICK_STEPS = 800, 250, 60, 60
SHARE = 3
"""Of fewer rows, one in so many is attacked; the attacker learns from others."""
PUBLIC_ROWS = 2000
TEST_SHARE = 0.2
POINTS = 1.0
"""Points of accuracy that the setting named at the end may lose."""
LEARNING_RATE = 1e-3
MAX_TOKENS = 64


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("audit")(audit)


def audit(
    spec: Annotated[
        Path | None,
        typer.Argument(
            metavar="SPEC.yaml", help="A run's specification; else MiniLM, split 1/4/1, bottom/trunk/top."
        ),
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Rows of a client; may be repeated. Default: builtin.")
    ] = None,
    test: Annotated[
        str | None, typer.Option(metavar="FILE", help="Rows to measure accuracy on; else a fifth of the data.")
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="Settings to compare; else a ladder of the audit's own.")
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            min=10, help=f"Rows to attack (default: {ROWS}, or a third of fewer; {QUICK_ROWS} with --quick)."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help=f"Steps of training a setting (default: {STEPS}; {QUICK_STEPS} with --quick)."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="How often each setting is trained.")] = 1,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder for audit.json and audit.png.")] = Path(
        "elsa-audit"
    ),
    quick: Annotated[
        bool, typer.Option("--quick", help="Few settings, rows and steps, a short A4: a first look.")
    ] = False,
) -> None:
    """Attack your own model, split and rows, and say what a curious edge recovers under each protection.

    Every setting is trained in this process and attacked by all attacks that apply; the strongest counts.
    docs/privacy.md says what each attacker knows.

    Example: elsa audit --quick

    Example: elsa audit run.yaml --data rows.jsonl --settings settings.yaml
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))  # read when torch is loaded
    from services.cli.predictor import quiet

    with quiet(), _progress() as told:
        work = _prepared(spec, data or ["builtin"], test, rows, QUICK_ROWS if quick else ROWS)
        job = _job(*work, steps=steps or (QUICK_STEPS if quick else STEPS), seeds=seeds, told=told, quick=quick)
        report = _run(job, _settings(job, settings, quick=quick), output)
    _print(report, output)


def _run(job: "Audit", settings: "Sequence[Setting]", output: Path) -> "Report":
    """See that the attacks succeed, then run the settings; what is done is kept in the folder `output`."""
    from elsa.privacy.audit.report import Report

    job.told("the attacks, where nothing is protected", 0.0)
    about = _about(job, job.check().top1)
    report = Report(about=about, results=())
    for setting in settings:
        report = Report(about=about, results=(*report.results, job.run(setting)))
        report.write(output)
    return report


def _prepared(
    path: Path | None, sources: Sequence[str], test: str | None, rows: int | None, most: int
) -> "tuple[RunSpec, Material]":
    """The specification, and the client's, the test's and the attacker's rows. Raises InputError."""
    from elsa.data.encoding import encode
    from elsa.data.examples import read_examples, split_holdout
    from elsa.model.weights import Checkpoint
    from elsa.privacy.audit.audit import Material
    from services.cli.shards import read_all

    found = [row for source in sources for row in read_all(source)]
    spec = _spec(path, found)
    checkpoint, task = Checkpoint.open(spec.model.source), spec.model.task
    checkpoint.check_length(spec.model.max_tokens, task, len(spec.data.labels))
    tokenizer = checkpoint.tokenizer()

    def examples(read: "Sequence[Row]", origin: str):  # type: ignore[no-untyped-def]
        return read_examples(enumerate(read, start=1), spec.data, task, origin)[0]

    kept, held = examples(found, ", ".join(sources)), examples(read_all(test), test) if test else []
    if not held:
        kept, held = split_holdout(kept, TEST_SHARE, spec.seed)
    train, heldout = (encode(part, tokenizer, spec.model, spec.data)[0] for part in (kept, held))
    rows = rows or min(most, max(len(train) // SHARE, 1))
    attacked = [list(row.ids) for row in train.rows[:rows]]
    public = [list(row.ids) for row in train.rows[rows : rows + PUBLIC_ROWS]]
    if len(public) < rows:
        raise DataError(
            f"{len(train)} rows to train on leave {len(public)} beside the {rows} attacked, of which the attacker "
            "learns how such text looks; give more rows with --data, or a smaller --rows"
        )
    return spec, Material(train=train, heldout=heldout, attacked=attacked, public=public)


def _spec(path: Path | None, rows: "Sequence[Row]") -> "RunSpec":
    """The specification in a file, or MiniLM's on the labels found. Raises InputError."""
    from elsa.spec import RunSpec

    if path is not None:
        try:
            return RunSpec.from_yaml(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise SpecError(f"{path}: cannot be read ({reason}); give a run's specification in YAML") from error
    labels = sorted({str(row["label"]).strip() for row in rows if "label" in row} - {""})
    if len(labels) < 2:
        raise DataError("the rows have no column 'label' with two labels or more; name the columns in a SPEC.yaml")
    return RunSpec.model_validate(
        {
            "model": {"max_tokens": MAX_TOKENS},
            "data": {"labels": labels},
            "training": {"batch": 16, "optimizer": {"learning_rate": LEARNING_RATE}},
        }
    )


def _job(spec: "RunSpec", material: "Material", *, steps: int, seeds: int, told: "Told", quick: bool) -> "Audit":
    from elsa.model.weights import Checkpoint
    from elsa.privacy.audit.audit import Audit
    from elsa.privacy.audit.inverter import Effort
    from elsa.privacy.audit.ladder import ladder
    from elsa.privacy.audit.reader import guess

    checkpoint = Checkpoint.open(spec.model.source)
    spec.split.of(checkpoint.config(spec.model.task, len(spec.data.labels)).num_hidden_layers)
    effort = Effort(keys=4, lesson_tokens=512, epochs=2) if quick else Effort()
    return Audit(
        base=spec,
        checkpoint=checkpoint,
        material=material,
        attack=partial(ladder, effort=effort, progress=lambda attack: told(attack, 1.0)),
        blind=partial(guess, effort=effort),
        steps=steps,
        seeds=seeds,
        told=told,
    )


def _settings(job: "Audit", path: Path | None, *, quick: bool) -> "Sequence[Setting]":
    """The user's settings after the unprotected one, or the audit's own. Raises InputError where one does not fit."""
    from elsa.privacy.audit.settings import Setting, default_settings, read_settings

    if path is None:
        return default_settings(job.base, job.blocks, quick=quick)
    found, plain = read_settings(path), Setting(name="unprotected")
    if found[0].spec(job.base) != plain.spec(job.base):
        found = (plain, *found)
    for setting in found:
        setting.spec(job.base).split.of(job.blocks)  # all are read before the first is run
    return found


def _about(job: "Audit", checked: float) -> dict[str, object]:
    return {
        "model": job.base.model.source,
        "split": str(job.base.split.of(job.blocks)),
        "rows": len(job.material.train),
        "rows_attacked": len(job.material.attacked),
        "rows_of_the_attacker": len(job.material.public),
        "rows_tested": len(job.material.heldout),
        "steps": job.steps,
        "seeds": job.seeds,
        "releases": job.releases,
        "unprotected_behind_one_block": checked,
    }


@contextmanager
def _progress() -> "Iterator[Told]":
    """Shows what is being done, on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading rows", total=1.0)

        def told(doing: str, done: float) -> None:
            bar.update(task, description=doing, completed=done)

        yield told


def _print(report: "Report", output: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from elsa.privacy.audit.report import HEADINGS, noted

    for headings, lines in ((HEADINGS, report.lines()), report.attack_lines()):
        table = Table(*headings, box=box.SIMPLE_HEAD)
        for cells in lines:
            table.add_row(*(Text(cell) for cell in cells))
        Console().print(table)
    typer.echo(
        "the first table has the strongest attack on tokens and on labels (majority in brackets); the second all"
    )
    for line in noted(report):
        typer.echo(line)
    best = report.best(POINTS)
    if best is not None:
        typer.echo(f"least recovered at {POINTS:g} point of accuracy or less: {best.setting}")
    typer.echo(f"audit.json and audit.png are in {output}")
