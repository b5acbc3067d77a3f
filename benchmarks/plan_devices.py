"""Four unequal devices at one edge: round times under their plan, under every single split, and after a slow-down.

Devices are processes of this machine that compute slower by a stated factor: after each piece of work they sleep
that many times as long, less one (`services/rpc/pace.py`). The fastest and the edge have factor 3, so that together
they ask for one of two cores: with more, devices wait for each other as devices of their own never would; memory is
each client's `max_memory_mib`. All of it is measured on real runs: what a round takes is what the cloud says,
evaluation included.
"""

import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.cluster_progress import say
from benchmarks.fleet import Fleet, table
from benchmarks.shapes import smollm2
from elsa.data.corpus import LABELS, corpus
from elsa.data.write import write_jsonl
from elsa.spec import RunSpec
from elsa.v1 import run_pb2, split_pb2

SPEEDS = {"device-1": 1, "device-2": 2, "device-3": 4, "device-4": 8}
MEMORY_MIB = {"device-1": 300, "device-2": 600, "device-3": 1024, "device-4": 2048}
FASTEST_PACE, EDGE_PACE = 3.0, 3.0
ROUNDS, STEPS, ROWS, TOKENS = 4, 6, 4, 32
FIXED_ROUNDS = 3
BLOCKS, FIXED_TOP = 30, 1
FIXED_KEPT = range(2, 14)
"""Blocks that every client keeps under a single split: all but one at the bottom, as plans keep them."""
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

    def step_s(self, client: str, split: str) -> list[float]:
        """Measured seconds of a step of a client, of each round from the second on in which it had that split."""
        later = [report for updates in self.reports[1:] for update in updates for report in update.reports]
        return [
            report.wall_s / report.steps
            for report in later
            if report.client_id == client and _written(report.split) == split
        ]


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
    """Start the devices, run, stop them. Raises RuntimeError if the run fails, or goes on without one of them."""
    found, arrived = Told(), list[run_pb2.UpdateReceived]()
    with tempfile.TemporaryDirectory(dir=folder) as name, Fleet(Path(name)) as fleet:
        fleet.edge("edge", len(SPEEDS), "--pace", f"{EDGE_PACE:g}")
        for number, (client, pace) in enumerate(paces.items(), start=1):
            memory = str(MEMORY_MIB[client])
            fleet.client(client, str(folder / f"rows-{number}.jsonl"), "--pace", pace, "--max-memory-mib", memory)
        for event in fleet.events(fleet.submit(spec)):
            if event.HasField("planned"):
                found.plans[event.planned.version] = event.planned
            elif event.HasField("node_joined") and not event.node_joined.accepted:
                raise RuntimeError(f"{event.node_joined.node_id}: {event.node_joined.detail}")
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
    """The model's folder; beside it the rows of each client. From now on figures are kept there too, none before."""
    rows = corpus()
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    for number in range(1, len(SPEEDS) + 1):
        write_jsonl(folder / f"rows-{number}.jsonl", rows[number :: len(rows) // CLIENT_ROWS][:CLIENT_ROWS])
    return smollm2(folder / "model")


def devices() -> bool:
    """Print the plan against every single split that all can hold; whether every bound was kept."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = prepared(folder)
        planned = told(folder, specification(model), paces())
        say(f"planned: {planned.steady_s():.2f} s a round")
        fixed = fixed_rounds(
            lambda split: told(folder, specification(model, FIXED_ROUNDS, split), paces()).steady_s()
        )
    kept = [_show_rounds(planned, fixed), _show_steps(planned)]
    return all(kept)


def fixed_rounds(measure: Callable[[tuple[int, int]], float]) -> dict[str, float | None]:
    """Seconds of a round under single splits, by bottom/trunk/top, up to the first that does not fit, which has None.

    Args:
        measure: the seconds of a split, bottom and top; raises RuntimeError, which names the memory that is there in
            MiB where the split does not fit. What fails for anything else fails here too.
    """
    found: dict[str, float | None] = {}
    for kept in FIXED_KEPT:
        split = (kept - FIXED_TOP, FIXED_TOP)
        called = f"{split[0]}/{BLOCKS - kept}/{split[1]}"
        try:
            found[called] = measure(split)
        except RuntimeError as error:
            if "MiB" not in str(error):
                raise
            say(f"{called}: {error}")
            found[called] = None  # as for all that keep more
            break
    return found


def slowdown() -> bool:
    """Print round times around a slow-down, and of a fleet known to be so slow; whether the bound was kept."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, known = prepared(folder), paces()
        slow = f"{FACTOR * float(known[SLOWED]):g}"
        aware = told(folder, specification(model), known | {SLOWED: slow})
        say(f"known to be slow: {aware.steady_s():.2f} s a round")
        rounds = AFTER + 4
        found = told(folder, specification(model, rounds), known | {SLOWED: f"{known[SLOWED]},{FROM_VERSION}:{slow}"})
    beyond = found.steady_s(AFTER + 1) / aware.steady_s() - 1
    print(f"{SLOWED} computes {FACTOR} times slower from round {FROM_VERSION + 1} on; seconds of each round\n")
    rows = [
        {"round": number, "seconds": f"{seconds:.2f}", f"split of {SLOWED}": _split_in(found, number)}
        for number, seconds in enumerate(found.seconds, start=1)
    ]
    print(table(rows))
    print(
        f"\nfrom round {AFTER + 1} on {found.steady_s(AFTER + 1):.2f} s, planned with that knowledge "
        f"{aware.steady_s():.2f} s: {beyond:+.0%} (at most {MOST_BEYOND:+.0%})\n"
    )
    return beyond <= MOST_BEYOND


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


def _show_rounds(planned: Told, fixed: Mapping[str, float | None]) -> bool:
    rows = [{"split": split, "s a round": "does not fit" if s is None else f"{s:.2f}"} for split, s in fixed.items()]
    rows.append({"split": "planned", "s a round": f"{planned.steady_s():.2f}"})
    print(
        f"four devices of speeds {' : '.join(map(str, SPEEDS.values()))} with "
        f"{', '.join(map(str, MEMORY_MIB.values()))} MiB at one edge, shape of SmolLM2-135M, "
        f"{STEPS} steps of {ROWS} rows; median of rounds 2 to {FIXED_ROUNDS} of single splits, 2 to "
        f"{ROUNDS} of the plan\n"
    )
    print(table(rows))
    held = {split: seconds for split, seconds in fixed.items() if seconds is not None}
    if not held:
        print("\nno single split fits\n")
        return False
    best = min(held, key=lambda split: held[split])
    share = planned.steady_s() / held[best]
    print(f"\nthe plan takes {share:.2f} of the best single split, {best} (at most {MOST_SHARE})\n")
    return share <= MOST_SHARE


def _show_steps(planned: Told) -> bool:
    """Print each client's step after the round of the calibrations, beside the prediction for its split."""
    rows, off = [], []
    for client in sorted(SPEEDS):
        own, when = prediction(planned, client)
        taken = planned.step_s(client, own.split)
        if not taken:
            print(f"not measured: {client}\n")
            return False
        seconds = statistics.median(taken)
        off.append(abs(predicted_s(own) / seconds - 1))
        rows.append(
            {
                "client": client,
                "split": own.split,
                "predicted": when,
                "predicted, s": f"{predicted_s(own):.3f}",
                "measured, s": f"{seconds:.3f}",
                "in rounds": f"{min(taken):.3f} to {max(taken):.3f}",
                "off by": f"{predicted_s(own) / seconds - 1:+.0%}",
            }
        )
    print("a step of each client, predicted and measured: median of the rounds from 2 on with that split\n")
    print(table(rows))
    print(f"\neach client off by at most {max(off):.0%} (at most {MOST_ERROR:.0%})\n")
    return max(off) <= MOST_ERROR


def prediction(planned: Told, client: str) -> tuple[run_pb2.PlannedClient, str]:
    """What was predicted for the split that a client has in round 2, and when.

    It is of the plan made before the run, unless the one made after round 1 gave the client another split.
    """
    first, *_ = (own for own in planned.plans[0].clients if own.client_id == client)
    for own in planned.plans.get(1, run_pb2.Planned()).clients:
        if own.client_id == client and own.split != first.split:
            return own, "after round 1, with its new split"
    return first, "before the run"


def _written(split: split_pb2.Split) -> str:
    return f"{split.bottom}/{split.trunk}/{split.top}"


def predicted_s(client: run_pb2.PlannedClient) -> float:
    """Seconds of a step, all phases."""
    return sum(getattr(client.seconds, name) for name in ("bottom", "network", "wait", "trunk", "top"))
