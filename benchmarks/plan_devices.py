"""Four unequal devices at one edge: round times under their plan, under every single split, and after a slow-down.

Devices are processes of this machine that compute slower by a stated factor: after each piece of work they sleep
that many times as long, less one (`services/rpc/pace.py`). The fastest and the edge have factor 2, so that together
they ask for less than two cores have; memory is each client's `max_memory_mib`. All of it is measured on real runs:
what a round takes is what the cloud says, evaluation included.
"""

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.cluster_progress import say
from benchmarks.fleet import Fleet, table
from benchmarks.shapes import smollm2
from elsa.data.corpus import LABELS, corpus
from elsa.data.write import write_jsonl
from elsa.spec import RunSpec
from elsa.v1 import run_pb2

SPEEDS = {"device-1": 1, "device-2": 2, "device-3": 4, "device-4": 8}
MEMORY_MIB = {"device-1": 300, "device-2": 600, "device-3": 1024, "device-4": 2048}
FASTEST_PACE, EDGE_PACE = 2.0, 2.0
ROUNDS, STEPS, ROWS, TOKENS = 4, 6, 4, 32
CLIENT_ROWS = 60
MOST_SHARE, MOST_ERROR, MOST_BEYOND = 0.7, 0.25, 0.20
SLOWED, FROM_VERSION, FACTOR, AFTER = "device-4", 2, 4, 4
"""The third round starts from version 2; the fifth from version 4."""


@dataclass(kw_only=True)
class Told:
    """What a run's events say."""

    seconds: list[float] = field(default_factory=list)
    """Of each round."""
    plans: dict[int, run_pb2.Planned] = field(default_factory=dict)
    """By the version that each was made after."""
    reports: list[Sequence[run_pb2.UpdateReceived]] = field(default_factory=list)
    """By round, what edges delivered."""

    def steady_s(self, first: int = 2) -> float:
        """Median seconds of a round from round `first` on: codecs calibrate in the one before."""
        return statistics.median(self.seconds[first - 1 :])

    def step_s(self, number: int) -> dict[str, float]:
        """Measured seconds of a step of each client in a round, from 1."""
        taken = [report for update in self.reports[number - 1] for report in update.reports]
        return {report.client_id: report.wall_s / report.steps for report in taken}


def specification(model: Path, rounds: int = ROUNDS, given: tuple[int, int] | None = None) -> RunSpec:
    """A run over the four devices, planned, or with one split for all."""
    bottom, top = given or (1, 1)
    return RunSpec.model_validate(
        {
            "name": "devices",
            "model": {"source": str(model), "max_tokens": TOKENS},
            "data": {"labels": LABELS, "holdout": 0.1},
            "split": {"bottom": bottom, "top": top},
            "plan": {"method": "given" if given else "measured"},
            "clustering": {"method": "none"},
            "fleet": {"min_clients": len(SPEEDS)},
            "training": {"rounds": rounds, "edge_rounds": 1, "local_steps": STEPS, "batch": ROWS},
        }
    )


def told(folder: Path, spec: RunSpec, paces: Mapping[str, str]) -> Told:
    """Start the devices, run, stop them. Raises RuntimeError if the run fails, as where a split fits no memory."""
    found, arrived = Told(), list[run_pb2.UpdateReceived]()
    with tempfile.TemporaryDirectory(dir=folder) as name, Fleet(Path(name)) as fleet:
        fleet.edge("edge", len(SPEEDS), "--pace", f"{EDGE_PACE:g}")
        for number, (client, pace) in enumerate(paces.items(), start=1):
            memory = str(MEMORY_MIB[client])
            fleet.client(client, str(folder / f"rows-{number}.jsonl"), "--pace", pace, "--max-memory-mib", memory)
        for event in fleet.events(fleet.submit(spec)):
            if event.HasField("planned"):
                found.plans[event.planned.version] = event.planned
            elif event.HasField("update_received"):
                arrived.append(event.update_received)
            elif event.HasField("round_closed"):
                found.seconds.append(event.round_closed.seconds)
                found.reports.append(tuple(arrived))
                arrived.clear()
                say(f"round {event.round_closed.version}: {event.round_closed.seconds:.1f} s")
    return found


def paces() -> dict[str, str]:
    """The factor of each device."""
    return {client: f"{FASTEST_PACE * max(SPEEDS.values()) / speed:g}" for client, speed in SPEEDS.items()}


def prepared(folder: Path) -> Path:
    """The model's folder; beside it the rows of each client."""
    rows = corpus()
    for number in range(1, len(SPEEDS) + 1):
        write_jsonl(folder / f"rows-{number}.jsonl", rows[number :: len(rows) // CLIENT_ROWS][:CLIENT_ROWS])
    return smollm2(folder / "model")


def devices() -> None:
    """Print the plan against every single split that all can hold."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = prepared(folder)
        planned = told(folder, specification(model), paces())
        say(f"planned: {planned.steady_s():.2f} s a round")
        fixed: dict[str, float | None] = {}
        for kept in range(2, 30, 2):
            split = (kept // 2, kept // 2)
            called = f"{split[0]}/{30 - kept}/{split[1]}"
            try:
                fixed[called] = told(folder, specification(model, given=split), paces()).steady_s()
            except RuntimeError as error:  # it fits some device's memory no more
                say(f"{split}: {error}")
                fixed[called] = None
                break
    _show_rounds(planned, fixed)
    _show_steps(planned)


def slowdown() -> None:
    """Print round times around a slow-down, and those of a fleet that was known to be so slow."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, known = prepared(folder), paces()
        slow = f"{FACTOR * float(known[SLOWED]):g}"
        aware = told(folder, specification(model), known | {SLOWED: slow})
        say(f"known to be slow: {aware.steady_s():.2f} s a round")
        rounds = AFTER + 4
        found = told(folder, specification(model, rounds), known | {SLOWED: f"{known[SLOWED]},{FROM_VERSION}:{slow}"})
    recovered = found.steady_s(AFTER + 1)
    print(f"{SLOWED} computes {FACTOR} times slower from round {FROM_VERSION + 1} on; seconds of each round\n")
    rows = [
        {"round": number, "seconds": f"{seconds:.2f}", f"split of {SLOWED}": _split_in(found, number)}
        for number, seconds in enumerate(found.seconds, start=1)
    ]
    print(table(rows))
    print(
        f"\nfrom round {AFTER + 1} on {recovered:.2f} s, planned with that knowledge {aware.steady_s():.2f} s: "
        f"{recovered / aware.steady_s() - 1:+.0%} (at most {MOST_BEYOND:+.0%})\n"
    )


def _split_in(found: Told, number: int) -> str:
    """The split of the device that slows down in a round, by the newest plan that names it."""
    named = [
        client.split
        for version in sorted(found.plans)
        if version < number
        for client in found.plans[version].clients
        if client.client_id == SLOWED
    ]
    return named[-1] if named else "-"


def _show_rounds(planned: Told, fixed: Mapping[str, float | None]) -> None:
    held = {split: seconds for split, seconds in fixed.items() if seconds is not None}
    best = min(held, key=lambda split: held[split])
    rows = [{"split": split, "s a round": "does not fit" if s is None else f"{s:.2f}"} for split, s in fixed.items()]
    rows.append({"split": "planned", "s a round": f"{planned.steady_s():.2f}"})
    print(
        f"four devices of speeds {' : '.join(map(str, SPEEDS.values()))} with "
        f"{', '.join(map(str, MEMORY_MIB.values()))} MiB at one edge, shape of SmolLM2-135M, "
        f"{STEPS} steps of {ROWS} rows; median of rounds 2 to {ROUNDS}\n"
    )
    print(table(rows))
    share = planned.steady_s() / held[best]
    print(f"\nthe plan takes {share:.2f} of the best single split, {best} (at most {MOST_SHARE})\n")


def _show_steps(planned: Told) -> None:
    """Each client's step as predicted before the run, and as the first round after the calibrations took it."""
    first, taken = planned.plans[0], planned.step_s(2)
    predicted = {client.client_id: client for client in first.clients}
    later = {
        client.client_id for version in planned.plans if version == 1 for client in planned.plans[version].clients
    }
    rows = []
    for client, seconds in sorted(taken.items()):
        of = next(
            own
            for version in (1, 0)
            for own in planned.plans.get(version, run_pb2.Planned()).clients
            if own.client_id == client
        )
        expected = sum(getattr(of.seconds, name) for name in ("bottom", "network", "wait", "trunk", "top"))
        rows.append(
            {
                "client": client,
                "split": of.split,
                "planned": "again" if client in later else "before the run",
                "predicted, s": f"{expected:.3f}",
                "measured, s": f"{seconds:.3f}",
                "off by": f"{expected / seconds - 1:+.0%}",
            }
        )
    print("a step of each client in round 2, predicted and measured\n")
    print(table(rows))
    print(
        f"\nslowest: predicted {first.step_s:.3f} s before the run, measured {max(planned.step_s(1).values()):.3f} s "
        f"in round 1 and {max(taken.values()):.3f} s in round 2 (each client within {MOST_ERROR:.0%})\n"
    )
    if missing := set(predicted) - set(taken):
        print(f"not measured: {', '.join(sorted(missing))}\n")
