"""The cloud as a process: settings, ready file, signals, and that it needs no torch."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import grpc
import grpc.aio
import pytest
from cloud_harness import EDGES, Site, adapter, run_async, settings
from grpc_health.v1 import health_pb2, health_pb2_grpc

from elsa.errors import AddressError, InputError, SpecError
from services.cloud.service import serving
from services.cloud.settings import CloudSettings
from services.rpc.channel import OPTIONS


@contextmanager
def process(folder, **more):
    """A cloud as a process with its state in `folder`, and `more` of its environment; gives it and its address."""
    ready = folder / "ready.json"
    ready.unlink(missing_ok=True)
    given = {"ELSA_PORT": "0", "ELSA_STATE": str(folder / "cloud"), "ELSA_READY_FILE": str(ready), **more}
    command = [sys.executable, "-m", "services.cloud"]
    with (folder / "log").open("a") as log:
        cloud = subprocess.Popen(command, env={**os.environ, **given}, stderr=log)
        try:
            content = _wait_for(ready, cloud)
            assert content["pid"] == cloud.pid
            yield cloud, content["address"]
        finally:
            cloud.kill()
            cloud.wait()


def test_process_is_ready_serves_and_stops_on_sigterm(tmp_path):
    with process(tmp_path) as (cloud, address):
        with grpc.insecure_channel(address) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service="elsa.v1.RunService"), timeout=10
            )
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        cloud.send_signal(signal.SIGTERM)
        assert cloud.wait(timeout=20) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


@run_async
async def test_killed_cloud_goes_on_in_the_same_round(tmp_path):
    with process(tmp_path) as (_, address):
        async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
            at = Site(cloud=None, clock=None, channel=channel)
            run = await at.started()
            await at.push(run, "edge-1", adapter(1))
    with process(tmp_path) as (_, address):
        async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
            at = Site(cloud=None, clock=None, channel=channel)
            assert not await at.push(run, "edge-1", adapter(1))
            assert await at.push(run, "edge-2", adapter(1))
            assert list((await at.closed(run, 1)).round_closed.edge_ids) == list(EDGES)


def _wait_for(path, process):
    end = time.monotonic() + 30
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)  # another process's file: there is nothing to wait on
    return json.loads(path.read_text())


def test_address_off_loopback_needs_to_be_spelled_out(tmp_path):
    with pytest.raises(AddressError, match="insecure"):
        asyncio.run(_start(settings(tmp_path, host="0.0.0.0")))


def test_unusable_state_is_one_line(tmp_path):
    (tmp_path / "cloud").write_text("a file")
    with pytest.raises(InputError, match="ELSA_STATE"):
        asyncio.run(_start(settings(tmp_path)))
    with pytest.raises(InputError, match="ELSA_DATABASE_URL"):
        asyncio.run(_start(settings(tmp_path / "x", database_url="nosuch://db")))


async def _start(given):
    async with serving(given):
        raise AssertionError("it serves")


def test_settings_come_from_the_environment_and_name_their_fault(monkeypatch):
    monkeypatch.setenv("ELSA_PORT", "7001")
    assert CloudSettings.load().port == 7001
    assert CloudSettings.load(port=7002, host=None).port == 7002
    monkeypatch.setenv("ELSA_PORT", "seven")
    with pytest.raises(SpecError, match="port"):
        CloudSettings.load()
    with pytest.raises(SpecError, match="go into one message"):
        CloudSettings.load(port=1, max_open_runs=33)
    with pytest.raises(SpecError, match=r"ports: unknown field"):
        CloudSettings.load(port=1, ports=2)
