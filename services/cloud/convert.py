"""Messages that more than one servicer speaks, to and from the cloud's own values."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

from google.protobuf.message import Message

from elsa.cluster.summary import SIZE
from elsa.errors import MalformedError
from elsa.train.phases import PhaseSeconds
from elsa.v1 import adapter_pb2, fleet_pb2, run_pb2, split_pb2
from elsa.wire.chunks import MAX_MESSAGE_BYTES
from services.cloud.events import Metrics
from services.cloud.lifecycle import RunState
from services.cloud.records import ClientReport

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


def fitting(messages: Sequence[Part]) -> list[Part]:
    """The first of `messages`, as many as go into one message together; the very first in any case."""
    ends = itertools.accumulate(message.ByteSize() + _FRAME_BYTES for message in messages)
    count = sum(end <= MAX_MESSAGE_BYTES - _SPARE_BYTES for end in ends)
    return list(messages[: max(count, 1)])


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
        )
        for report in reports
    ]


def reports_from_proto(messages: Iterable[adapter_pb2.ClientReport]) -> tuple[ClientReport, ...]:
    """What clients did. Raises MalformedError for figures that are not finite."""
    return tuple(_report_from_proto(message) for message in messages)


def moved_from_proto(messages: Iterable[adapter_pb2.ClientReport]) -> dict[str, tuple[float, ...]]:
    """By client, how far its adapter went in all its edge rounds together; nothing of those that tell nothing.

    Raises MalformedError for a summary of another length and for values that are not finite.
    """
    sums: dict[str, list[float]] = {}
    for message in messages:
        if not message.moved:
            continue
        if len(message.moved) != SIZE or not all(map(math.isfinite, message.moved)):
            raise MalformedError(
                f"reports.moved of {message.client_id}: {len(message.moved)} values; it needs {SIZE} that are finite"
            )
        before = sums.get(message.client_id, [0.0] * SIZE)
        sums[message.client_id] = [one + other for one, other in zip(before, message.moved, strict=True)]
    return {client: tuple(values) for client, values in sums.items()}


def _report_from_proto(message: adapter_pb2.ClientReport) -> ClientReport:
    seconds = message.seconds
    figures = {phase: getattr(seconds, phase) for phase in ("bottom", "network", "wait", "trunk", "top")}
    for name, value in {**figures, "loss": message.loss, "wall_s": message.wall_s}.items():
        if not math.isfinite(value):
            raise MalformedError(f"reports.{name} of {message.client_id}: {value}; it must be finite")
    return ClientReport(
        client_id=message.client_id,
        edge_round=message.edge_round,
        rows=message.rows,
        steps=message.steps,
        loss=message.loss,
        seconds=PhaseSeconds(**figures),
        up_bytes=message.bytes.up,
        down_bytes=message.bytes.down,
        wall_s=message.wall_s,
        float32_bytes=message.float32_bytes,
    )
