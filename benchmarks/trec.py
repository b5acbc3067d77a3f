"""TREC-6 over four clients and two edges, against unsplit centralised PEFT training on as many samples.

    python -m benchmarks.trec [--data ../shared/data/trec6] [--seed 0]

The federated run is `elsa demo` on TREC's training rows (Dirichlet 0.5 over labels), its test the official 500 rows.
The centralised twin sees all rows in one place, as many samples in all, with the best of several learning rates.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.fleet import CORES, table
from elsa.spec import RunSpec

ROUNDS, EDGE_ROUNDS, STEPS, BATCH, CLIENTS, EDGES = 8, 2, 20, 16, 4, 2
SAMPLES = ROUNDS * EDGE_ROUNDS * STEPS * BATCH * CLIENTS
LEARNING_RATE = 0.004
CENTRAL_RATES = (0.001, 0.002)
LABELS = ("ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM")
MAX_TOKENS = 64


def federated(data: Path, folder: Path, seed: int) -> dict[str, float]:
    """Accuracy of the exported adapter, seconds and bytes of `elsa demo`."""
    output = folder / "demo"
    flags = {
        "data": data / "train.jsonl.gz",
        "test": data / "test.jsonl.gz",
        "labels": ",".join(LABELS),
        "clients": CLIENTS,
        "edges": EDGES,
        "alpha": 0.5,
        "rounds": ROUNDS,
        "edge-rounds": EDGE_ROUNDS,
        "steps": STEPS,
        "batch": BATCH,
        "learning-rate": LEARNING_RATE,
        "max-tokens": MAX_TOKENS,
        "preset": "none",
        "seed": seed,
        "output": output,
    }
    command = [sys.executable, "-m", "services.cli", "demo"]
    command += [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    subprocess.run(command, check=True, stdout=sys.stderr)
    report = json.loads((output / "report.json").read_text())
    return {
        "accuracy": report["test"]["adapter"],
        "majority": report["test"]["majority"],
        "frozen_head": report["test"]["frozen_head"],
        "seconds": report["seconds"],
        "bytes": report["wire_bytes"],
    }


def central(data: Path, folder: Path, seed: int, rate: float) -> float:
    """Test accuracy of unsplit PEFT training on all rows."""
    spec = RunSpec.model_validate(
        {
            "seed": seed,
            "data": {"labels": LABELS},
            "model": {"max_tokens": MAX_TOKENS},
            "training": {"batch": BATCH, "optimizer": {"learning_rate": rate}},
        }
    )
    (folder / "spec.yaml").write_text(spec.to_yaml())
    for name in ("train", "test"):
        (folder / f"{name}.jsonl").write_bytes(gzip.decompress((data / f"{name}.jsonl.gz").read_bytes()))
    command = [sys.executable, "-m", "benchmarks.unsplit", str(folder / "spec.yaml"), str(folder / "train.jsonl")]
    command += ["--steps", str(SAMPLES // BATCH), "--threads", str(CORES), "--test", str(folder / "test.jsonl")]
    environment = os.environ | {"OMP_NUM_THREADS": str(CORES)}
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    return float(json.loads(output)["test_accuracy"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/trec6"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not (args.data / "train.jsonl.gz").is_file():
        sys.exit(f"error: no TREC-6 in {args.data}; give a folder with train.jsonl.gz and test.jsonl.gz as --data")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        split = federated(args.data, folder, args.seed)
        rates = {rate: central(args.data, folder, args.seed, rate) for rate in CENTRAL_RATES}
    best = max(rates, key=lambda rate: rates[rate])
    print(f"TREC-6, MiniLM 1/4/1, {SAMPLES} samples seen, seed {args.seed}; accuracy on the 500 test rows\n")
    rows = [
        {
            "": "ELSA, 4 clients, 2 edges, Dirichlet 0.5",
            "accuracy": f"{split['accuracy']:.3f}",
            "note": "at least 0.92",
        },
        *(
            {
                "": f"unsplit, centralised, rate {rate:g}",
                "accuracy": f"{accuracy:.3f}",
                "note": "best" * (rate == best),
            }
            for rate, accuracy in rates.items()
        ),
        {"": "frozen model, trained head", "accuracy": f"{split['frozen_head']:.3f}", "note": ""},
        {"": "commonest label", "accuracy": f"{split['majority']:.3f}", "note": ""},
    ]
    print(table(rows))
    print(
        f"\nELSA against the best centralised: {100 * (split['accuracy'] - rates[best]):+.1f} points (at least -2); "
        f"{split['seconds']:.0f} s, {split['bytes'] / 1e6:.0f} MB of activations and gradients\n"
    )


if __name__ == "__main__":
    main()
