"""An edge and a client as processes: ready, told to stop in the middle of training, gone with exit code 0."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
from fleet_harness import system, write_rows
from split_harness import spec_of

from elsa.errors import InputError
from services.rpc.process import write_ready


def process(stack, folder, role, **given):
    """A role as a process, its log beside its ready file."""
    name = given["name"]
    ready = folder / f"{name}.json"
    settings = {f"ELSA_{field.upper()}": str(value) for field, value in given.items()}
    log = stack.enter_context((folder / f"{name}.log").open("w"))
    started = subprocess.Popen(
        [sys.executable, "-m", f"services.{role}"],
        env={**os.environ, **settings, "ELSA_READY_FILE": str(ready)},
        stderr=log,
    )
    stack.callback(started.wait)
    stack.callback(started.kill)
    return started, ready


def wait_for(path, started, seconds=60):
    end = time.monotonic() + seconds
    while not path.exists():
        assert started.poll() is None and time.monotonic() < end
        time.sleep(0.02)  # another process's file: there is nothing to wait on
    return json.loads(path.read_text())


def ended(started, within_s):
    begin = time.monotonic()
    started.send_signal(signal.SIGTERM)
    code = started.wait(timeout=30)
    assert (code, time.monotonic() - begin < within_s) == (0, True)


def test_processes_end_promptly_in_the_middle_of_training(tiny_bert, tmp_path):
    data = json.dumps({"words": str(write_rows(tmp_path / "rows.jsonl", 40, 1))})
    wants = {"min_clients": 2, "min_edges": 1}
    spec = spec_of(tiny_bert, training={"rounds": 50, "local_steps": 10_000}, fleet=wants)
    with system(tmp_path) as whole, ExitStack() as stack:
        names = ("ann", "bob")
        edge, edge_ready = process(
            stack, tmp_path, "edge", name="edge-1", cloud=whole.address, state=tmp_path, grace_s=1
        )
        clients = {
            name: process(stack, tmp_path, "client", name=name, cloud=whole.address, data=data) for name in names
        }
        for started, ready in [(edge, edge_ready), *clients.values()]:
            assert wait_for(ready, started)["pid"] == started.pid
        run_id = whole.submit(spec)
        for name in names:
            whole.wait(run_id, lambda e, n=name: e.node_progress.node_id == n and e.node_progress.progress.step > 3)
        ended(clients["ann"][0], 8)  # its edge goes on with the other
        ended(edge, 8)
        ended(clients["bob"][0], 8)  # looking for its edge
    said = {log.stem: log.read_text() for log in tmp_path.glob("*.log")}
    for text in said.values():
        assert "Traceback" not in text
        assert "has ended" not in text.replace("has not ended", "")
    assert said["bob"].count("does not answer") <= 1  # a reason is said once
    assert "WARNING" not in said["ann"]  # what comes of being told to stop is nobody's fault


def test_roles_that_wait_for_their_cloud_end_on_a_signal_too(tmp_path):
    with ExitStack() as stack:
        started = [process(stack, tmp_path, role, cloud="127.0.0.1:9", name=role)[0] for role in ("edge", "client")]
        for one, role in zip(started, ("edge", "client"), strict=True):
            log, end = tmp_path / f"{role}.log", time.monotonic() + 60
            while "trying again" not in log.read_text():
                assert one.poll() is None and time.monotonic() < end
                time.sleep(0.02)
            ended(one, 8)
            assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("role", "variable", "value", "said"),
    [
        ("edge", "ELSA_CAPACITY", "none", "capacity"),
        ("client", "ELSA_DATA", "reviews=rows.jsonl", 'give it like {"reviews": "rows.jsonl"}'),
        ("client", "ELSA_HELDOUT", "{", "ELSA_HELDOUT is not JSON"),
    ],
)
def test_settings_that_cannot_be_used_are_one_line(role, variable, value, said):
    given = {**os.environ, variable: value}
    done = subprocess.run(
        [sys.executable, "-m", f"services.{role}"], env=given, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert said in done.stderr and variable[:4] in done.stderr and done.stderr.count("\n") == 1


def test_a_ready_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(
        InputError, match=r"--ready-file .*nowhere.ready.json: No such file or directory; name a file"
    ):
        write_ready(tmp_path / "nowhere" / "ready.json", "127.0.0.1:1")
