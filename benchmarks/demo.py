"""The demo as a new user runs it: its time, and its accuracy against the yardsticks."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.fleet import table


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "demo"
        begin = time.monotonic()
        command = [sys.executable, "-m", "services.cli", "demo", "--output", str(output)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        seconds = time.monotonic() - begin
        report = json.loads((output / "report.json").read_text())
    test = report["test"]
    print("elsa demo with the built-in corpus\n")
    print(
        table(
            [
                {
                    "seconds": f"{seconds:.0f}",
                    "adapter": f"{test['adapter']:.3f}",
                    "frozen model, trained head": f"{test['frozen_head']:.3f}",
                    "commonest label": f"{test['majority']:.3f}",
                    "test rows": test["test_rows"],
                    "MB": f"{report['wire_bytes'] / 1e6:.0f}",
                    "as float32": f"{report['float32_bytes'] / 1e6:.0f}",
                }
            ]
        )
    )
    print("(under 240 s)\n")


if __name__ == "__main__":
    main()
