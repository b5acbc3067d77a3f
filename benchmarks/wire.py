"""What codecs save and what they cost: accuracy, bytes and time of training through each, and the reuse of rows.

    python -m benchmarks.wire [--data ../shared/data] [--jobs 2] [--seeds 3] [--results elsa-bench/wire.jsonl]

MiniLM cut 1/4/1 (5/1/0 for `private`), 680 steps of 16 rows of TREC-6 and 340 of AG News, each run a process. Results
are kept line by line: a run broken off goes on where it was, and one whose specification has changed is taken
anew.
"""

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks import wire_speed
from benchmarks.fleet import table
from benchmarks.wire_case import BATCH, DATA, REUSING, SETTINGS, Case, measured

STEPS: Mapping[str, int] = {"TREC-6": 680, "AG News": 340}
RATE = 1e-3
EPOCHS, TREC_ROWS = 5, 5452
COMPARED = ("bf16", "int8", "int4", "sketch, ratio 2", "sketch, ratio 4", "paper")
"""Settings that are there for comparison: one seed of TREC-6."""
LINKS = {"100 Mbit/s": 100e6 / 8, "1 Gbit/s": 1e9 / 8}
FLOAT32 = 4
Results = Mapping[str, Mapping[str, Any]]


def plan(seeds: int, share: float) -> list[Case]:
    """All runs, those of the first seed first; `share` of their steps."""
    return [
        Case(data=data, setting=setting, seed=seed, steps=math.ceil(share * STEPS[data]), rate=RATE)
        for seed in range(seeds)
        for setting in SETTINGS
        for data in DATA
        if setting not in COMPARED or (seed == 0 and data == "TREC-6")
    ]


def reusing(share: float) -> list[Case]:
    """The runs of some epochs."""
    steps = math.ceil(share * EPOCHS * TREC_ROWS / BATCH)
    return [Case(data="TREC-6", setting=setting, seed=0, steps=steps, rate=RATE) for setting in REUSING]


def run_all(cases: Sequence[Case], folder: Path, kept: Path, jobs: int, threads: int) -> None:
    """Run what is not kept yet, and keep each result as soon as it is there."""
    done = set(read(kept))
    waiting = {key: case for case in cases if (key := case.key(folder)) not in done}
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for the processes, which load torch after this
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        futures = {pool.submit(measured, case, folder, threads): case for case in waiting.values()}
        for number, future in enumerate(as_completed(futures), start=1):
            keep(kept, future.result())
            case = futures[future]
            print(f"{number}/{len(futures)}: {case.data}, {case.setting}, seed {case.seed}", file=sys.stderr)
    finally:
        pool.shutdown(cancel_futures=True)


def keep(kept: Path, result: Mapping[str, Any]) -> None:
    """Add a result as a line."""
    with kept.open("a") as file:
        file.write(json.dumps(result) + "\n")


def read(kept: Path) -> Results:
    """Results by key; a last line that was broken off is no result."""
    if not kept.exists():
        return {}
    lines = kept.read_text().split("\n")[:-1]
    return {result["key"]: result for result in map(json.loads, lines)}


def of_setting(cases: Sequence[Case], results: Results, folder: Path, data: str, setting: str) -> list[Any]:
    """The results of one setting on one data set, a seed each."""
    chosen = [case for case in cases if (case.data, case.setting) == (data, setting)]
    return [results[case.key(folder)] for case in chosen]


def rows_of(cases: Sequence[Case], results: Results, folder: Path, data: str) -> list[Mapping[str, object]]:
    """The table of one data set."""
    plain = of_setting(cases, results, folder, data, "none")
    return [
        row(setting, runs, plain)
        for setting in SETTINGS
        if (runs := of_setting(cases, results, folder, data, setting))
    ]


def row(setting: str, runs: Sequence[Mapping[str, Any]], plain: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """A setting's means over its seeds, held against `none` with the same seeds."""
    plain = plain[: len(runs)]
    accuracy = [run["accuracy"] for run in runs]
    points = 100 * (mean(runs, "accuracy") - mean(plain, "accuracy"))
    up, down = mean(runs, "up_bytes") / runs[0]["steps"], mean(runs, "down_bytes") / runs[0]["steps"]
    before = (mean(plain, "up_bytes") + mean(plain, "down_bytes")) / runs[0]["steps"]
    saved = before - up - down
    return {
        "setting": setting,
        "accuracy": f"{statistics.mean(accuracy):.4f}",
        "seeds": len(runs),
        "points": f"{points:+.2f}",
        "range": f"{min(accuracy):.3f}-{max(accuracy):.3f}",
        "kB up": f"{up / 1e3:.1f}",
        "kB down": f"{down / 1e3:.1f}",
        "fewer": f"{before / (up + down):.1f}x",
        "step ms": f"{1e3 * mean(runs, 'step_s'):.0f}",
        "exchange ms": f"{1e3 * mean(runs, 'exchange_s'):.1f}",
        **{f"saves ms, {name}": f"{1e3 * saved / rate:.1f}" for name, rate in LINKS.items()},
    }


def reuse_rows(cases: Sequence[Case], results: Results, folder: Path) -> list[Mapping[str, object]]:
    """The table of reuse: bytes of h1 against those of float32 without it."""
    rows: list[Mapping[str, object]] = []
    for case in cases:
        run = results[case.key(folder)]
        floats = run["tokens"] * run["width"] * FLOAT32
        whole = floats * (4 if case.spec(folder).lora.bottom_adapters else 3)
        rows.append(
            {
                "setting": case.setting,
                "accuracy": f"{run['accuracy']:.3f}",
                "h1 MB": f"{run['h1_bytes'] / 1e6:.2f}",
                "h1 fewer": f"{floats / run['h1_bytes']:.1f}x",
                "MB in all": f"{(run['up_bytes'] + run['down_bytes']) / 1e6:.1f}",
                "fewer in all": f"{whole / (run['up_bytes'] + run['down_bytes']):.1f}x",
            }
        )
    return rows


def mean(runs: Sequence[Mapping[str, Any]], name: str) -> float:
    """Mean of one figure."""
    return statistics.mean(run[name] for run in runs)


def main() -> None:
    """Measure what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with trec6 and agnews")
    parser.add_argument("--results", type=Path, default=Path("elsa-bench/wire.jsonl"), help="where results are kept")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes at once")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--seeds", type=int, default=3, help="of the presets; the others have one")
    parser.add_argument("--share", type=float, default=1.0, help="of the steps; less than 1 for a trial")
    args = parser.parse_args()
    for name in DATA.values():
        if not (args.data / name / "train.jsonl.gz").is_file():
            sys.exit(f"error: no {args.data / name}/train.jsonl.gz; give the folder that holds {name} as --data")
    args.results.parent.mkdir(parents=True, exist_ok=True)
    begin, cases, few = time.monotonic(), plan(args.seeds, args.share), reusing(args.share)
    run_all(cases + few, args.data, args.results, args.jobs, args.threads)
    results = read(args.results)
    for data in DATA:
        steps = math.ceil(args.share * STEPS[data])
        print(f"{data}, MiniLM 1/4/1 (private: 5/1/0), {steps} steps of {BATCH}")
        print("bytes and ms a step, calibration included\n")
        print(table(rows_of(cases, results, args.data, data)) + "\n")
    print(f"reuse, TREC-6, {few[0].steps} steps of {BATCH}; against float32 without reuse\n")
    print(table(reuse_rows(few, results, args.data)) + "\n")
    wire_speed.main()
    print(f"{time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
