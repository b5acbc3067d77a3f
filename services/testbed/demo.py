"""A whole run on one machine: share out the data, start every role, follow the run, export, and measure."""

import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from elsa.data.examples import Labelled, read_examples, split_holdout
from elsa.data.probes import read_probes
from elsa.data.source import Row
from elsa.errors import DataError, ElsaError, RoundGivenUpError, SpecError
from elsa.model.weights import Checkpoint
from elsa.parsing import describe
from elsa.spec import RunSpec
from elsa.v1 import fleet_pb2
from elsa.v1 import run_pb2 as pb
from services.cli.board import Board, shown
from services.cli.operator import Operator
from services.cli.predictor import Predictor, quiet
from services.cli.shards import TEST, Plan, read_all, share_out, write_folder
from services.cli.standings import Clusters, clusters_from_proto
from services.testbed.fleet import Fleet, Say, described, kernel_groups
from services.testbed.place import Workplace
from services.testbed.processes import Processes
from services.testbed.report import Report, write_report
from services.testbed.settings import DemoSettings
from services.testbed.yardsticks import measure

PATIENCE_S = 60.0
HELD_OUT = 0.2


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What is known of a run that has completed."""

    board: Board
    clusters: Clusters | None
    kept_by: Literal["pace", "cgroup"]
    """What kept the clients to their devices."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A demo's data and specification, checked before anything is written or started."""

    spec: RunSpec
    files: dict[str, list[Row]]
    train: list[Labelled]
    test: list[Labelled]


def run(settings: DemoSettings, say: Say) -> Report:
    """Run a demo; what it made lies in `settings.output`.

    Raises:
        InputError: for data, a model, a split or an output folder that cannot be used; nothing is written then.
        RoleDiedError: if a role ends by itself.
        RoundGivenUpError: if the run does not complete.
    """
    begin = time.monotonic()
    place = Workplace(settings.output)
    place.check()
    prepared = prepare(settings)
    with place:
        with _saying_where(place.folder):
            trained = _train(settings, prepared, place.folder, say)
            say("every process is stopped; measuring the exported adapter on the test rows ...")
            report = _measured(settings, prepared, place.folder, trained, begin)
            write_report(report, place.folder)
        place.finish()
    return report


def prepare(settings: DemoSettings) -> Prepared:
    """Read and share out the data, and check the specification against the model. Raises InputError."""
    rows = read_all(settings.data)
    test = read_all(settings.test) if settings.test else None
    labels = _labels(settings, rows)
    spec = _spec(settings, labels)
    plan = Plan(
        parts=settings.clients,
        alpha=None if settings.iid else settings.alpha,
        groups=settings.edges if settings.clusters else None,
        label=settings.label,
        holdout=0.0 if test else HELD_OUT,
        seed=settings.seed,
        min_rows=2,
    )
    files = share_out(rows, plan)
    files[TEST] = test or files[TEST]
    checkpoint = Checkpoint.open(spec.model.source)
    with quiet():  # a base model with labels of its own is no cause for advice
        blocks = checkpoint.config(spec.model.task, len(labels)).num_hidden_layers
        spec.split.of(blocks)
        checkpoint.check_length(spec.model.max_tokens, spec.model.task, len(labels))
    return Prepared(
        spec=spec,
        files=files,
        train=[
            example
            for name, held in files.items()
            if name != TEST
            for example in _trained_on(_examples(held, spec, settings.data), spec)
        ],
        test=_examples(files[TEST], spec, settings.test or settings.data),
    )


def _spec(settings: DemoSettings, labels: tuple[str, ...]) -> RunSpec:
    probes = read_probes(settings.probes) if settings.probes else ()
    try:
        spec = settings.run_spec(labels, probes)
    except ValidationError as error:
        raise SpecError(f"settings of the demo: {describe(error)}") from error
    if settings.clusters and not spec.groups_clients(settings.edges):
        raise SpecError(
            "settings of the demo: clusters: nobody is grouped with 1 edge, or under a preset whose activations are "
            "turned (privacy.ssop); give --edges 2 or more, and another --preset"
        )
    return spec


def _labels(settings: DemoSettings, rows: Sequence[Row]) -> tuple[str, ...]:
    if settings.labels:
        return tuple(label.strip() for label in settings.labels.split(",") if label.strip())
    cells = {str(row[settings.label]).strip() for row in rows if settings.label in row}
    found = sorted(cells - {""})
    if not found:
        columns = ", ".join(map(repr, rows[0])) if rows else "none"
        raise DataError(
            f"{settings.data}: no column {settings.label!r}, which --label names; the columns are {columns}"
        )
    return tuple(found)


def _trained_on(examples: list[Labelled], spec: RunSpec) -> list[Labelled]:
    """What a client trains on of its rows: all but those that it keeps back itself."""
    return split_holdout(examples, spec.data.holdout, spec.seed)[0]


def _examples(rows: Sequence[Row], spec: RunSpec, origin: str) -> list[Labelled]:
    examples, _ = read_examples(enumerate(rows, start=1), spec.data, spec.model.task, origin)
    return [example for example in examples if isinstance(example, Labelled)]


@contextmanager
def _saying_where(folder: Path) -> Iterator[None]:
    """An error within it says where logs and state are."""
    try:
        yield
    except ElsaError as error:
        raise type(error)(f"{error} -- logs and state are in {folder}") from error


def _train(settings: DemoSettings, prepared: Prepared, folder: Path, say: Say) -> Trained:
    """Everything that needs the roles: they are stopped when this returns or raises."""
    write_folder(folder / "data", prepared.files)
    (folder / "spec.yaml").write_text(prepared.spec.to_yaml(), encoding="utf-8")
    happened: queue.Queue[pb.RunEvent | ElsaError | None] = queue.Queue()
    logs = folder / "logs"
    with ExitStack() as around, Processes(logs, threads=settings.threads, died=happened.put) as processes:
        try:
            say(f"starting a cloud, {settings.edges} edges, {settings.clients} clients; logs are in {logs}")
            groups = kernel_groups(settings, around, say)
            for line in described(settings, groups):
                say(line)
            address = Fleet(settings, processes, folder, around, groups).start()
            with Operator(address, PATIENCE_S) as operator:
                run_id = operator.submit(prepared.spec.to_yaml())
                say(f"run {run_id} is submitted to the cloud at {address}")
                threading.Thread(target=_forward, args=(operator, run_id, happened), daemon=True).start()
                board = _follow(run_id, happened)
                operator.export(run_id, folder / "adapter")
                clusters = _clusters(operator, run_id, folder) if settings.clusters else None
        except KeyboardInterrupt:
            processes.stop()
            say(f"every process is stopped; logs and state are in {folder}")
            raise
    return Trained(board=board, clusters=clusters, kept_by="pace" if groups is None else "cgroup")


def _clusters(operator: Operator, run_id: str, folder: Path) -> Clusters:
    """Who learned with whom; the adapter of each cluster that has been evaluated is exported beside the run's."""
    found = clusters_from_proto(operator.clusters(run_id))
    for score in found.scores:
        operator.export(run_id, folder / f"adapter-of-cluster-{score.cluster}", cluster=score.cluster)
    return found


def _forward(operator: Operator, run_id: str, happened: "queue.Queue[pb.RunEvent | ElsaError | None]") -> None:
    """Put a run's events in the queue, then None; or the error that ended the watch."""
    try:
        for event in operator.watch(run_id):
            happened.put(event)
        happened.put(None)
    except ElsaError as error:
        happened.put(error)
    except ValueError:  # the channel was closed: nobody listens any more
        return


def _follow(run_id: str, happened: "queue.Queue[pb.RunEvent | ElsaError | None]") -> Board:
    """Show the run until it has ended. Raises what came instead of an event, RoundGivenUpError."""
    board = Board(run_id)
    with shown(board) as show:
        while (event := happened.get()) is not None:
            if isinstance(event, ElsaError):
                raise event
            board.add(event)
            show(event)
    if board.state != fleet_pb2.RUN_STATE_COMPLETED:
        raise RoundGivenUpError(board.ending())
    return board


def _measured(
    settings: DemoSettings,
    prepared: Prepared,
    folder: Path,
    trained: Trained,
    begin: float,
) -> Report:
    ssop = prepared.spec.privacy.ssop
    yardsticks = measure(
        Predictor.load(folder / "adapter"),
        prepared.train,
        prepared.test,
        rows=settings.rows_trained,
        seed=settings.seed,
        workers=len(os.sched_getaffinity(0)),
    )
    return Report(
        settings=settings.model_dump(mode="json"),
        devices=_devices(settings, trained),
        run_id=trained.board.run_id,
        versions=dict(sorted(trained.board.versions.items())),
        clusters=trained.clusters,
        yardsticks=yardsticks,
        seconds=time.monotonic() - begin,
        trunk_is_turned=ssop is not None and ssop.edge == "blind",
    )


def _devices(settings: DemoSettings, trained: Trained) -> tuple[dict[str, Any], ...]:
    """Each client's device, and what kept it to that; none where all were as the machine is."""
    if not settings.has_unlike_devices:
        return ()
    return tuple(
        {"client": f"client-{number}", **asdict(device), "kept_by": trained.kept_by}
        for number, device in enumerate(settings.devices, start=1)
    )
