"""Peak resident memory of a client that keeps 1/28/1 of a 30-block model, against unsplit PEFT training of the same.

Both are processes, and both do the same steps on the same rows; what importing torch, transformers and peft takes is
measured in a third and taken off. The embeddings, which a client needs whole, are shown apart.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.cluster_progress import say
from benchmarks.fleet import Fleet, table
from benchmarks.shapes import SMOLLM2_135M, smollm2
from elsa.data.corpus import LABELS, corpus
from elsa.data.write import write_jsonl
from elsa.spec import RunSpec

ROWS, TOKENS, STEPS = 8, 64, 6
EMBEDDINGS_BYTES = 4 * SMOLLM2_135M["vocab_size"] * SMOLLM2_135M["hidden_size"]
MOST_SHARE = 0.15
PEAK = "import re; print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) << 10)"
"""Without an import of ours, which would count as one of torch."""
TASKS = {
    "classification": {"labels": LABELS},
    "causal-lm": {},
}


def specification(model: Path, task: str, base: str = "float32", checkpointing: bool = False) -> RunSpec:
    """One client that keeps a block at each end."""
    return RunSpec.model_validate(
        {
            "name": "memory",
            "model": {"source": str(model), "task": task, "max_tokens": TOKENS, "base_dtype": base},
            "data": TASKS[task],
            "split": {"bottom": 1, "top": 1},
            "plan": {"method": "given"},
            "clustering": {"method": "none"},
            "training": {
                "rounds": 1,
                "edge_rounds": 1,
                "local_steps": STEPS,
                "batch": ROWS,
                "checkpointing": checkpointing,
            },
        }
    )


def bare() -> int:
    """Bytes that importing takes."""
    return _peak_of([sys.executable, "-c", f"import torch, transformers, peft; {PEAK}"])


def unsplit(spec: RunSpec, folder: Path) -> int:
    """The peak of plain PEFT training."""
    (folder / "spec.yaml").write_text(spec.to_yaml())
    program = f"from benchmarks.unsplit import main; main(); {PEAK}"
    arguments = [str(folder / "spec.yaml"), str(folder / "rows.jsonl"), "--steps", str(STEPS), "--threads", "1"]
    return _peak_of([sys.executable, "-c", program, *arguments])


def split(spec: RunSpec, folder: Path) -> int:
    """The peak of the client, its edge and cloud being other processes."""
    with tempfile.TemporaryDirectory(dir=folder) as name, Fleet(Path(name)) as fleet:
        fleet.edge("edge", 1)
        fleet.client("client", str(folder / "rows.jsonl"))
        for _ in fleet.events(fleet.submit(spec)):
            peak = fleet.peak_bytes("client")
    return peak


def memory() -> bool:
    """Print the table; whether every bound was kept."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = smollm2(folder / "model")
        write_jsonl(folder / "rows.jsonl", corpus()[::40])
        imported, rows, shares = bare(), [], []
        for task in TASKS:
            whole = unsplit(specification(model, task), folder) - imported
            say(f"{task}: unsplit measured")
            rows.append(_row(task, "unsplit PEFT, float32", whole, whole))
            for base, again in (("float32", False), ("float32", True), ("bfloat16", False), ("int8", False)):
                own = split(specification(model, task, base, again), folder) - imported
                shares += [_share(own, whole)] if (base, again) == ("float32", False) else []
                how = f"client 1/28/1, {base}" + (", checkpointing" if again else "")
                rows.append(_row(task, how, own, whole))
                say(f"{task}: {how} measured")
    print(
        f"shape of SmolLM2-135M, random weights, {ROWS} rows of at most {TOKENS} tokens, {STEPS} steps; peak "
        f"resident MiB beyond importing torch, transformers and peft ({imported / 2**20:.0f} MiB); embeddings "
        f"{EMBEDDINGS_BYTES / 2**20:.0f} MiB\n"
    )
    print(table(rows))
    print(f"\nshare: without the embeddings on either side (at most {MOST_SHARE:.0%} of unsplit, float32)\n")
    return max(shares) <= MOST_SHARE


def _row(task: str, how: str, own: int, whole: int) -> dict[str, object]:
    return {"task": task, "how": how, "MiB": f"{own / 2**20:.0f}", "share": f"{_share(own, whole):.1%}"}


def _share(own: int, whole: int) -> float:
    return (own - EMBEDDINGS_BYTES) / (whole - EMBEDDINGS_BYTES)


def _peak_of(command: list[str]) -> int:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return int(output.split()[-1])
