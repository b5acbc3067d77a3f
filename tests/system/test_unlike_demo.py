"""A demo with unlike devices, as a user runs it: each carries what a plan gives it, over a link of its own."""

import json
import re
import subprocess

import pytest

from services.testbed.processes import elsa_command

FLAGS = "--clients 2 --edges 1 --rounds 1 --edge-rounds 1 --steps 4 --speeds 1,8 --latency-ms 2,30 --mbit 20,50"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_faster_device_never_keeps_less_and_each_trains_over_its_own_link(tmp_path):
    done = subprocess.run(
        elsa_command("demo", *FLAGS.split()), cwd=tmp_path, capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stderr
    planned = next(line for line in done.stdout.splitlines() if "splits planned" in line)
    kept = {name: int(bottom) + int(top) for name, bottom, top in re.findall(r"(client-\d) (\d)/\d/(\d)", planned)}
    assert kept["client-1"] <= kept["client-2"]
    assert "client-1: computes 8 times slower, memory as there is, 2 ms and 20 Mbit/s to each edge" in done.stdout
    folder = tmp_path / "elsa-demo"
    devices = json.loads((folder / "report.json").read_text())["devices"]
    assert [(device["slower"], device["kept_by"]) for device in devices] == [(8, "pace"), (1, "pace")]
    own = json.loads((folder / "ready" / "edge-1.json").read_text())["address"]
    for client in ("client-1", "client-2"):
        (at,) = re.findall(r"trains with edge edge-1 at (\S+)", (folder / "logs" / f"{client}.log").read_text())
        assert at != own
