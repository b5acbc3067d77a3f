"""A role that is told to stop ends with status 0 within seconds, however far its start has come."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from fleet_harness import cloud_serving

WITHIN_S = 10.0
SIGTERM_BIT = 1 << (signal.SIGTERM - 1)


@pytest.fixture
def started(tmp_path):
    """Starts a role; at the end none is left."""
    with ExitStack() as stack:

        def start(role, **given):
            settings = {f"ELSA_{field.upper()}": str(value) for field, value in given.items()}
            log = stack.enter_context((tmp_path / f"{role}.log").open("w"))
            command = [sys.executable, "-m", "services.cli", role]
            environment = {**os.environ, "ELSA_STATE": str(tmp_path / "state"), **settings}
            process = subprocess.Popen(command, env=environment, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield start


def ends(process, log):
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert time.monotonic() - begin < WITHIN_S
    assert "Traceback" not in log.read_text() and "SIGTERM" in log.read_text()


def until(process, seen):
    end = time.monotonic() + 60
    while not seen():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.005)  # another process: there is nothing to wait on


def handles_sigterm(process):
    (line,) = [line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "SigCgt" in line]
    return bool(int(line.split()[1], 16) & SIGTERM_BIT)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("role", ["cloud", "edge", "client"])
def test_while_it_loads(started, tmp_path, role):
    process = started(role, port=0) if role == "cloud" else started(role)
    until(process, lambda: handles_sigterm(process))
    ends(process, tmp_path / f"{role}.log")


@pytest.mark.parametrize("role", ["edge", "client"])
def test_while_its_cloud_takes_the_call_and_does_not_answer(started, tmp_path, role):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        process = started(role, cloud=f"127.0.0.1:{silent.getsockname()[1]}")
        with silent.accept()[0]:
            ends(process, tmp_path / f"{role}.log")


@pytest.mark.parametrize("role", ["edge", "client"])
def test_once_it_is_registered(started, tmp_path, role):
    ready = tmp_path / "ready.json"
    with cloud_serving(tmp_path) as address:
        process = started(role, cloud=address, ready_file=ready, grace_s=60) if role == "edge" else None
        process = process or started(role, cloud=address, ready_file=ready)
        until(process, ready.exists)
        ends(process, tmp_path / f"{role}.log")
