"""Messages that more than one servicer speaks, to and from the cloud's own values."""

import itertools
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from elsa.cluster.summary import SIZE
from elsa.errors import MalformedError
from elsa.train.phases import PhaseSeconds
from elsa.v1 import adapter_pb2, fleet_pb2, run_pb2, split_pb2
from elsa.wire.chunks import MAX_MESSAGE_BYTES
from elsa.wire.report import PHASES, check_report
from services.cloud.events import Metrics
from services.cloud.lifecycle import RunState
from services.cloud.round_records import ClientReport

Array = NDArray[np.float64]
Part = TypeVar("Part", bound=Message)
_FRAME_BYTES, _SPARE_BYTES = 8, 4096


def state_to_proto(state: RunState) -> fleet_pb2.RunState.ValueType:
    """`RunState.PENDING` as `RUN_STATE_PENDING`, and so on."""
    return fleet_pb2.RunState.Value(f"RUN_STATE_{state.name}")


def metrics_to_proto(metrics: Metrics) -> run_pb2.Evaluation:
    """Metrics as a message."""
    return run_pb2.Evaluation(
        version=metrics.version,
        rows=metrics.rows,
        loss=metrics.loss,
        accuracy=metrics.accuracy,
        clients=metrics.clients,
        cluster=metrics.cluster,
    )


def fitting(messages: Sequence[Part], besides: int = 0) -> list[Part]:
    """The first of `messages`, as many as go into one message with `besides` bytes; the very first in any case."""
    return list(messages[: max(_count((message.ByteSize() for message in messages), besides), 1)])


def fitting_names(names: Sequence[str], besides: int = 0) -> list[str]:
    """The first of `names`, as many as go into one message with `besides` bytes."""
    return list(names[: _count((len(name) for name in names), besides)])


def _count(sizes: Iterable[int], besides: int) -> int:
    ends = itertools.accumulate(size + _FRAME_BYTES for size in sizes)
    return sum(end <= MAX_MESSAGE_BYTES - _SPARE_BYTES - besides for end in ends)


def reports_to_proto(reports: Iterable[ClientReport]) -> list[adapter_pb2.ClientReport]:
    """What clients did, as messages."""
    return [
        adapter_pb2.ClientReport(
            client_id=report.client_id,
            edge_round=report.edge_round,
            rows=report.rows,
            steps=report.steps,
            loss=report.loss,
            seconds=split_pb2.PhaseSeconds(
                bottom=report.seconds.bottom,
                network=report.seconds.network,
                wait=report.seconds.wait,
                trunk=report.seconds.trunk,
                top=report.seconds.top,
            ),
            bytes=split_pb2.ByteCount(up=report.up_bytes, down=report.down_bytes),
            wall_s=report.wall_s,
            float32_bytes=report.float32_bytes,
            split=_cut(report.split),
        )
        for report in reports
    ]


def _cut(split: str) -> split_pb2.Split | None:
    """bottom/trunk/top as a message; None where it was not said."""
    if not split:
        return None
    bottom, trunk, top = map(int, split.split("/"))
    return split_pb2.Split(bottom=bottom, trunk=trunk, top=top)


def reports_from_proto(messages: Iterable[adapter_pb2.ClientReport]) -> tuple[ClientReport, ...]:
    """What clients did. Raises MalformedError as `elsa.wire.report.check_report`."""
    return tuple(_report_from_proto(message) for message in messages)


def moved_from_proto(messages: Iterable[adapter_pb2.ClientReport]) -> dict[str, tuple[float, ...]]:
    """By client, how far its adapter went, the mean over its edge rounds; nothing of those that tell nothing.

    The mean, since clients need not take part in as many edge rounds.

    Raises MalformedError for a summary of another length and for values that are not finite.
    """
    told: dict[str, list[Array]] = {}
    for message in messages:
        if not message.moved:
            continue
        moved = np.array(message.moved, np.float64)
        if len(moved) != SIZE or not np.isfinite(moved).all():
            raise MalformedError(
                f"reports.moved of {message.client_id}: {len(moved)} values; it needs {SIZE} that are finite"
            )
        told.setdefault(message.client_id, []).append(moved)
    return {client: tuple(np.mean(rounds, axis=0).tolist()) for client, rounds in told.items()}


def _report_from_proto(message: adapter_pb2.ClientReport) -> ClientReport:
    check_report(message)
    cut = message.split
    return ClientReport(
        client_id=message.client_id,
        edge_round=message.edge_round,
        rows=message.rows,
        steps=message.steps,
        loss=message.loss,
        seconds=PhaseSeconds(**{phase: getattr(message.seconds, phase) for phase in PHASES}),
        up_bytes=message.bytes.up,
        down_bytes=message.bytes.down,
        wall_s=message.wall_s,
        float32_bytes=message.float32_bytes,
        split=f"{cut.bottom}/{cut.trunk}/{cut.top}" if message.HasField("split") else "",
    )
