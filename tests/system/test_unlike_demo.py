"""A demo with unlike devices, as a user runs it: each carries what a plan gives it, over a link of its own."""

import json
import random
import re
import subprocess

import pytest

from services.testbed.processes import elsa_command

SLOW, LIKE_MACHINE = "client-3", ("client-1", "client-2", "client-4")
"""Ties go by name to the first, so that it is not the slow one."""
FLAGS = (
    "--data rows.jsonl --iid --clients 4 --edges 1 --rounds 1 --edge-rounds 1 --steps 4 --speeds 3,3,1,3 "
    "--latency-ms 2,3 --mbit 200"
)
"""Four trunks of four blocks are 16 blocks a step at the edge, and the slow device's own step is as long as 10: the
others must relieve the edge, the slow one as little as may be."""
COLOURS = {"red": ("rose", "ruby", "rust", "brick"), "green": ("grass", "moss", "jade", "fern")}


def few_long_rows(path):
    """So many tokens a row that blocks and not links take the time, so few rows that testing takes none."""
    draw = random.Random(3)
    with path.open("w") as file:
        for label in ("red", "green") * 80:
            words = draw.choices([word for words in COLOURS.values() for word in words[2:]], k=40)
            text = " ".join([draw.choice(COLOURS[label][:2]), *words])
            file.write(json.dumps({"text": text, "label": label}) + "\n")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_faster_devices_keep_more_where_the_edge_is_busiest_and_each_trains_over_its_own_link(tmp_path):
    few_long_rows(tmp_path / "rows.jsonl")
    done = subprocess.run(
        elsa_command("demo", *FLAGS.split()), cwd=tmp_path, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    planned = next(line for line in done.stdout.splitlines() if "splits planned" in line)
    kept = {name: int(bottom) + int(top) for name, bottom, top in re.findall(r"(client-\d) (\d)/\d/(\d)", planned)}
    others = [blocks for name, blocks in kept.items() if name != SLOW]
    assert kept[SLOW] <= min(others)
    assert kept[SLOW] < max(others)
    assert f"{SLOW}: computes 3 times slower, memory as there is, 2 ms and 200 Mbit/s to each edge" in done.stdout
    folder = tmp_path / "elsa-demo"
    devices = json.loads((folder / "report.json").read_text())["devices"]
    assert {device["client"]: device["slower"] for device in devices} == {SLOW: 3} | dict.fromkeys(LIKE_MACHINE, 1)
    assert {device["kept_by"] for device in devices} == {"pace"}
    own = json.loads((folder / "ready" / "edge-1.json").read_text())["address"]
    for client in (SLOW, *LIKE_MACHINE):
        (at,) = re.findall(r"trains with edge edge-1 at (\S+)", (folder / "logs" / f"{client}.log").read_text())
        assert at != own
