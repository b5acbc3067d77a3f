"""Split training of one client against unsplit PEFT training on the same cores, in the same run.

A cloud, an edge and a client are processes; the unsplit twin is one too. They take turns, each with as many compute
threads as there are cores: in a split step only one of client and edge computes at a time.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.fleet import CORES, Fleet, table
from elsa.data.corpus import LABELS, corpus
from elsa.data.write import write_jsonl
from elsa.spec import RunSpec
from elsa.v1.adapter_pb2 import ClientReport

STEPS = 60
TURNS = 3


def specification() -> RunSpec:
    """One client, one edge, MiniLM cut 1/4/1, batches of 16."""
    return RunSpec.model_validate(
        {
            "name": "step",
            "preset": "none",
            "data": {"labels": LABELS},
            "split": {"bottom": 1, "top": 1},
            "plan": {"method": "given"},
            "training": {"rounds": 1, "edge_rounds": 1, "local_steps": STEPS, "batch": 16},
        }
    )


def unsplit(folder: Path) -> float:
    """Seconds a step of the unsplit twin."""
    command = [sys.executable, "-m", "benchmarks.unsplit", str(folder / "spec.yaml"), str(folder / "rows.jsonl")]
    command += ["--steps", str(STEPS), "--threads", str(CORES)]
    environment = os.environ | {"OMP_NUM_THREADS": str(CORES)}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return float(json.loads(output)["step_s"][0])


def split(fleet: Fleet, spec: RunSpec) -> ClientReport:
    """The report of the client's session."""
    reports = [report for event in fleet.events(fleet.submit(spec)) for report in event.update_received.reports]
    return reports[0]


def main() -> None:
    """Print the table."""
    spec = specification()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "spec.yaml").write_text(spec.to_yaml())
        write_jsonl(folder / "rows.jsonl", corpus()[::6])
        whole, reports = [], []
        with Fleet(folder, threads=CORES) as fleet:
            fleet.edge("edge", 1)
            fleet.client("client", str(folder / "rows.jsonl"))
            for _ in range(TURNS):
                whole.append(unsplit(folder))
                reports.append(split(fleet, spec))
    report(whole, reports)


def report(whole: list[float], reports: list[ClientReport]) -> None:
    """Medians, their ratio, and where a split step's time goes."""
    middle = sorted(reports, key=lambda one: one.wall_s)[len(reports) // 2]
    split_ms = statistics.median(one.wall_s / one.steps for one in reports) * 1e3
    whole_ms = statistics.median(whole) * 1e3
    print(f"one client, MiniLM 1/4/1, batch 16, {STEPS} steps, {TURNS} turns, {CORES} threads each; ms a step\n")
    print(
        table(
            [
                {"": "unsplit PEFT", "median": f"{whole_ms:.1f}", "all": " ".join(f"{1e3 * s:.1f}" for s in whole)},
                {
                    "": "split",
                    "median": f"{split_ms:.1f}",
                    "all": " ".join(f"{1e3 * one.wall_s / one.steps:.1f}" for one in reports),
                },
                {"": "ratio", "median": f"{split_ms / whole_ms:.3f}", "all": "(at most 1.25)"},
            ]
        )
    )
    phases = middle.seconds
    parts = {name: getattr(phases, name) for name in ("bottom", "network", "wait", "trunk", "top")}
    parts["other"] = middle.wall_s - sum(parts.values())
    print(
        "\nwhere a split step goes, ms: " + ", ".join(f"{k} {1e3 * v / middle.steps:.1f}" for k, v in parts.items())
    )
    up, down = middle.bytes.up / middle.steps, middle.bytes.down / middle.steps
    print(f"bytes a step: {up / 1e3:.1f} kB up, {down / 1e3:.1f} kB down\n")


if __name__ == "__main__":
    main()
