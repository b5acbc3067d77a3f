"""Whole runs in which clients have no model of their own."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack

import pytest
from fleet_harness import system, write_rows
from split_harness import spec_of

from elsa.errors import CheckpointError
from elsa.model.weights import Checkpoint
from elsa.v1 import fleet_pb2

COMPLETED = fleet_pb2.RUN_STATE_COMPLETED
NAMES = ("ann", "bob")


def spec_for(source, **parts):
    return spec_of(source, fleet={"min_clients": 2, "min_edges": 1, "enroll_timeout_s": 60}, **parts)


def adapter_of(folder, spec, **given):
    """The exported tensors, and the events, of a run of two clients."""
    folder.mkdir()
    with system(folder) as whole:
        whole.edge("edge-1")
        for seed, name in enumerate(NAMES):
            whole.client(name, write_rows(folder / f"{name}.jsonl", 24, seed), cache=folder / "cache", **given)
        run_id = whole.submit(spec)
        *_, last = whole.events(run_id)
        assert last.state_changed.state == COMPLETED, last
        return whole.export(run_id)["adapter_model.safetensors"], whole.get(run_id).evaluations


@pytest.mark.parametrize("method", ["none", "spectral"])
def test_a_run_whose_clients_have_no_model_equals_one_whose_clients_have_it(tiny_bert, tmp_path, monkeypatch, method):
    spec = spec_for(tiny_bert, clustering={"method": method, "warmup_steps": 2})
    local, evaluated = adapter_of(tmp_path / "local", spec, weights="local")

    def refuse(source, **given):
        raise CheckpointError("this machine has no model")

    class NoModel(Checkpoint):
        open = staticmethod(refuse)

    monkeypatch.setattr("services.client.base.Checkpoint", NoModel)
    fetched, evaluated_too = adapter_of(tmp_path / "edge", spec)
    assert fetched == local
    assert [e.loss for e in evaluated_too] == [e.loss for e in evaluated]
    assert list((tmp_path / "edge" / "cache").glob("contents/*/*"))
    assert not list((tmp_path / "edge" / "cache").glob("leases/*")), "a run that is over still holds its weights"


def client_process(stack, folder, cloud):
    """ann as a process in a folder of its own that holds nothing, and with no way to a hub."""
    settings = {"NAME": "ann", "CLOUD": cloud, "DATA": json.dumps({"words": str(folder.parent / "ann.jsonl")})}
    home = {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(folder / "cache")}
    env = {**os.environ, **home, **{f"ELSA_{name}": value for name, value in settings.items()}}
    log = stack.enter_context((folder.parent / "ann.log").open("a"))
    started = subprocess.Popen([sys.executable, "-m", "services.client"], env=env, cwd=folder, stderr=log)
    stack.callback(started.wait)
    stack.callback(started.kill)
    return started


def test_a_process_without_model_or_hub_takes_part_and_killed_comes_back_and_is_sent_nothing_twice(
    tiny_bert, tmp_path, monkeypatch
):
    (tmp_path / "device").mkdir()
    shutil.copytree(tiny_bert, tmp_path / "edge" / "model")
    monkeypatch.chdir(tmp_path / "edge")  # where the run's model is: the client is elsewhere
    write_rows(tmp_path / "ann.jsonl", 24, 1)
    wants = {"min_clients": 1, "min_edges": 1, "enroll_timeout_s": 60}
    contents = tmp_path / "device" / "cache" / "elsa" / "weights" / "contents"
    with system(tmp_path) as whole, ExitStack() as stack:
        whole.edge("edge-1")
        first = client_process(stack, tmp_path / "device", whole.address)
        run_id = whole.submit(spec_of("./model", training={"rounds": 2, "local_steps": 30}, fleet=wants))
        whole.wait(run_id, lambda e: e.node_progress.progress.activity == "training")
        first.send_signal(signal.SIGKILL)
        first.wait(10)
        times = {file: file.stat().st_ino for file in contents.glob("*/*")}
        received = (tmp_path / "ann.log").read_text().count("of the model from")
        client_process(stack, tmp_path / "device", whole.address)
        *_, last = whole.events(run_id)
        assert last.state_changed.state == COMPLETED
    text = (tmp_path / "ann.log").read_text()
    assert text.count("its weights come from the edge") == 2 and "Traceback" not in text
    assert text.count("of the model from") == received > 0
    assert times and times == {file: file.stat().st_ino for file in contents.glob("*/*")}
    assert not list((tmp_path / "device").rglob("*.safetensors"))
