"""The cloud as a process: settings, ready file, signals, and that it needs no torch."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time

import grpc
import pytest
from cloud_harness import settings
from grpc_health.v1 import health_pb2, health_pb2_grpc

from elsa.errors import AddressError, InputError, SpecError
from services.cloud.service import serving
from services.cloud.settings import CloudSettings

NO_TORCH = """
import importlib, pkgutil, sys
for name in ("torch", "transformers", "peft", "accelerate", "datasets"):
    sys.modules[name] = None
import services.cloud
for module in pkgutil.iter_modules(services.cloud.__path__):
    importlib.import_module(f"services.cloud.{module.name}")
print("fine")
"""


def test_cloud_imports_without_torch():
    done = subprocess.run([sys.executable, "-c", NO_TORCH], capture_output=True, text=True, timeout=60)
    assert done.stdout == "fine\n", done.stderr


def test_process_is_ready_serves_and_stops_on_sigterm(tmp_path):
    ready = tmp_path / "ready.json"
    given = {"ELSA_PORT": "0", "ELSA_STATE": str(tmp_path / "cloud"), "ELSA_READY_FILE": str(ready)}
    log = (tmp_path / "log").open("w")
    with (
        log,
        subprocess.Popen(
            [sys.executable, "-m", "services.cloud"], env={**os.environ, **given}, stderr=log
        ) as process,
    ):
        try:
            content = _wait_for(ready, process)
            assert content["pid"] == process.pid
            with grpc.insecure_channel(content["address"]) as channel:
                answer = health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(service="elsa.v1.RunService"), timeout=10
                )
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
    assert "Traceback" not in (tmp_path / "log").read_text()


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
    with pytest.raises(SpecError, match=r"ports: unknown field"):
        CloudSettings.load(port=1, ports=2)
