"""What the testbed of containers costs: time to its first trained step, memory, image sizes, time to drain an edge.

It needs a container engine with compose. Images are built before the clock starts; volumes are new, so certificates
and rows are made within the time. Everything is taken down again.
"""

import argparse
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.cluster_progress import say

ROOT = Path(__file__).parents[1]
BASE = "python:3.11-slim"
EDGES = ("edge-1", "edge-2")
ROLES = ("cloud", *EDGES, "client-small", "client-medium", "client-large", "client")
MIB = {"KiB": 2**-10, "MiB": 1.0, "GiB": 2**10}
STEPS = """
import urllib.request
text = urllib.request.urlopen("http://127.0.0.1:7490/metrics", timeout=5).read().decode()
print(sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("elsa_edge_steps_total")))
"""
GIVEN_UP_S = 900.0


class Testbed:
    """A compose project of its own."""

    def __init__(self, project: str) -> None:
        self._compose = ["docker", "compose", "-p", project]
        self._project = project
        self.follower = f"{project}-follower"

    def run(self, *arguments: str, check: bool = True) -> str:
        """`docker compose …`; what it printed."""
        done = subprocess.run([*self._compose, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise SystemExit(f"docker compose {' '.join(arguments)}:\n{done.stderr}")
        return done.stdout

    @contextmanager
    def attached(self, *arguments: str, stdout: int) -> Iterator[subprocess.Popen[str]]:
        """`docker compose …` in the background, as long as the context; `stdout` as `subprocess` has it."""
        process = subprocess.Popen(
            [*self._compose, *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def steps(self) -> float:
        """Steps that edges have trained; 0 while they do not answer."""
        return sum(float(self.run("exec", "-T", edge, "python", "-c", STEPS, check=False) or 0) for edge in EDGES)

    def memory_mib(self) -> dict[str, float]:
        """Of each role, as the engine counts it (without idle cached files)."""
        names = {f"{self._project}-{role}-1": role for role in ROLES}
        said = docker("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}", *names)
        found = re.findall(r"^(\S+) ([\d.]+)([KMG]iB)", said, re.MULTILINE)
        return {names[name]: float(figure) * MIB[unit] for name, figure, unit in found}

    def down(self) -> None:
        """Take all down, volumes too."""
        subprocess.run(["docker", "rm", "-f", self.follower], capture_output=True, check=False)
        self.run("down", "-v", "--remove-orphans", check=False)


def docker(*arguments: str) -> str:
    """`docker …`; what it printed."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout


def first_step_s(testbed: Testbed) -> float:
    """Seconds from `docker compose up` to the first step that an edge has trained with a client."""
    begin = time.monotonic()
    with testbed.attached("up", "--no-build", stdout=subprocess.DEVNULL):
        while not testbed.steps():
            if time.monotonic() - begin > GIVEN_UP_S:
                raise SystemExit(f"no step within {GIVEN_UP_S:g} s:\n{testbed.run('logs', '--tail', '20')}")
        return time.monotonic() - begin


def memory_and_drain(testbed: Testbed) -> tuple[dict[str, float], dict[str, float], float]:
    """Memory of each role at rest and its most in training, MiB; and the seconds in which an edge stops then."""
    testbed.run("up", "-d", "--no-build", "--wait", *ROLES)
    rest, most = testbed.memory_mib(), {}
    with testbed.attached(
        "run", "--rm", "-T", "--no-deps", "--name", testbed.follower, "submit", stdout=subprocess.PIPE
    ) as run:
        for line in run.stdout or ():
            for role, used in testbed.memory_mib().items():
                most[role] = max(used, most.get(role, 0.0))
            if "round 2 closed" in line:
                break
        begin = time.monotonic()
        testbed.run("stop", EDGES[0])
        return rest, most, time.monotonic() - begin


def image_rows(images: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Of each image: its size, and what it adds to the base image, decimal MB."""
    base = image_mb(BASE)
    rows = [(name, f"{image_mb(tag):.0f}", f"{image_mb(tag) - base:.0f}") for name, tag in images.items()]
    return [*rows, (f"{BASE} here", f"{base:.0f}", "")]


def image_mb(tag: str) -> float:
    """Size of an image."""
    return float(json.loads(docker("image", "inspect", tag))[0]["Size"]) / 1e6


def markdown(heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table."""
    lines = [heading, ("---",) * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", default=f"elsa-bench-{os.getpid()}", help="name of the compose project")
    parser.add_argument("--runs", type=int, default=3, help="how often the time to the first step is taken")
    given = parser.parse_args()
    testbed = Testbed(given.project)
    images = {
        role: os.environ.get(f"ELSA_{role.upper()}_IMAGE") or f"elsa-{role}" for role in ("cloud", "edge", "client")
    }
    say("building images")
    testbed.run("build")
    try:
        firsts = []
        for _ in range(given.runs):
            firsts.append(first_step_s(testbed))
            say(f"first step after {firsts[-1]:.1f} s")
            testbed.down()
        rest, most, drain_s = memory_and_drain(testbed)
    finally:
        testbed.down()
    figures = [
        ("`docker compose up` to the first trained step", ", ".join(f"{one:.1f} s" for one in firsts)),
        ("`docker compose stop edge-1` in training", f"{drain_s:.1f} s"),
    ]
    memory = [(role, f"{rest[role]:.0f}", f"{most[role]:.0f}") for role in ROLES]
    print(markdown(("what", "time"), figures))
    print(markdown(("container", "MiB at rest", "MiB in training, most"), memory))
    print(markdown(("image", "MB", "MB beyond the base image"), image_rows(images)))


if __name__ == "__main__":
    main()
