"""Each site has the run's model in a folder of its own, and all have the same one."""

import json
import shutil

import grpc
import pytest
from fleet_harness import system, write_rows
from safetensors.torch import load_file, save_file
from split_harness import edge_server, first_adapter, opening, spec_of, talk

from elsa.errors import CheckpointError
from elsa.model.digest import base_digest
from elsa.model.weights import Checkpoint
from elsa.v1 import fleet_pb2, split_pb2
from services.client.base import RunBase
from services.client.settings import ClientSettings

NAME = "hospital/notes-model"
COMPLETED = fleet_pb2.RUN_STATE_COMPLETED


def wants(clients):
    return {"min_clients": clients, "min_edges": 1, "enroll_timeout_s": 60}


def tuned(folder, to):
    """A copy that somebody has trained on."""
    shutil.copytree(folder, to)
    tensors = load_file(to / "model.safetensors")
    name = "bert.encoder.layer.2.output.dense.weight"
    save_file({**tensors, name: tensors[name] * 1.01}, to / "model.safetensors", {"format": "pt"})
    return to


def exported(folder, spec, **sites):
    """What a run of an edge and two clients makes, and how good it is, where `sites` says what each is given."""
    folder.mkdir()
    with system(folder) as whole:
        whole.edge("edge-1", **sites.get("edge", {}))
        for seed, name in enumerate(("ann", "bob")):
            whole.client(name, write_rows(folder / f"{name}.jsonl", 24, seed), **sites.get(name, {}))
        run_id = whole.submit(spec)
        *_, last = whole.events(run_id)
        assert last.state_changed.state == COMPLETED, last
        return whole.export(run_id)


def test_a_run_by_another_name_makes_the_same_adapter_from_folders_of_the_sites_own(tiny_bert, tmp_path):
    ours, other = exported(tmp_path / "one", spec_of(tiny_bert, fleet=wants(2))), tmp_path / "moved"
    shutil.copytree(tiny_bert, other)
    sites = {
        "edge": {"models": {NAME: str(tiny_bert)}},
        "ann": {"models": {NAME: str(other)}},
        "bob": {"weights": "edge", "cache": tmp_path / "cache"},
    }
    theirs = exported(tmp_path / "two", spec_of(NAME, fleet=wants(2)), **sites)
    assert theirs["adapter_model.safetensors"] == ours["adapter_model.safetensors"]
    assert json.loads(theirs["adapter_config.json"])["base_model_name_or_path"] == NAME


def test_a_site_with_another_model_under_the_name_is_left_out_and_the_run_goes_on(tiny_bert, tmp_path):
    with system(tmp_path) as whole:
        whole.edge("edge-1", models={NAME: str(tiny_bert)})
        whole.client("ann", write_rows(tmp_path / "ann.jsonl", 24, 1), models={NAME: str(tiny_bert)})
        other = {NAME: str(tuned(tiny_bert, tmp_path / "tuned"))}
        whole.client("bob", write_rows(tmp_path / "bob.jsonl", 24, 2), models=other)
        run_id = whole.submit(spec_of(NAME, fleet=wants(1), training={"rounds": 1}))
        events = list(whole.events(run_id))
        assert events[-1].state_changed.state == COMPLETED
        assert list(whole.get(run_id).client_ids) == ["ann"]
    said = [e.node_joined.detail for e in events if e.node_joined.node_id == "bob" and not e.node_joined.accepted]
    assert any("bob has another model under the name hospital/notes-model" in detail for detail in said)
    assert all("edge-1" in detail and "--models" in detail for detail in said)


@pytest.mark.parametrize(
    ("role", "given", "said"),
    [
        ("edge", {}, "--models hospital/notes-model=FOLDER"),
        ("edge", {"models": {NAME: "/nowhere"}}, "no model folder at /nowhere"),
        ("client", {"weights": "local"}, "--models hospital/notes-model=FOLDER; or set weights to edge"),
        ("client", {"models": {NAME: "/nowhere"}}, "this site's models say that hospital/notes-model is there"),
    ],
)
def test_a_model_that_is_not_found_is_refused_with_the_setting_that_helps(
    tiny_bert, tmp_path, monkeypatch, role, given, said
):
    def offline(*args, **named):
        raise OSError("no network")

    monkeypatch.setattr("elsa.model.weights.snapshot_download", offline)
    own = {"models": {NAME: str(tiny_bert)}}
    with system(tmp_path) as whole:
        whole.edge("edge-1", **(given if role == "edge" else own))
        whole.client("ann", write_rows(tmp_path / "ann.jsonl", 24, 1), **(given if role == "client" else own))
        run_id = whole.submit(spec_of(NAME, fleet=wants(1)))
        *_, last = whole.events(run_id)
        assert last.state_changed.state == fleet_pb2.RUN_STATE_FAILED
        assert said in last.state_changed.reason


def test_what_a_site_maps_is_its_own_and_all_else_is_found_as_ever(tiny_bert):
    checkpoint = Checkpoint.open(NAME, models={NAME: str(tiny_bert)})
    assert (checkpoint.source, checkpoint.folder) == (NAME, tiny_bert)
    assert Checkpoint.open(str(tiny_bert), models={NAME: "/nowhere"}).folder == tiny_bert
    with pytest.raises(CheckpointError) as raised:
        Checkpoint.open("/nowhere")
    assert "--models" not in str(raised.value), "who cannot say where models are is not told to"


@pytest.mark.parametrize("method", ["Train", "Predict"])
@pytest.mark.parametrize(("digest", "code"), [("cd" * 32, "INVALID_ARGUMENT"), ("ab" * 32, "OK"), ("", "OK")])
def test_an_edge_takes_nobody_whose_base_has_changed_since_it_joined(tiny_bert, method, digest, code):
    spec = spec_of(tiny_bert)
    with edge_server() as edge:
        edge.open_run(spec, first_adapter(spec), ["ann"], base_digest="ab" * 32)
        if method == "Train":
            request = split_pb2.TrainRequest(open=opening(spec, "ann", base_digest=digest))
        else:
            whole = opening(spec, "ann")
            fields = {name: getattr(whole, name) for name in ("run_id", "client_id", "split", "codecs", "window")}
            request = split_pb2.PredictRequest(open=split_pb2.PredictOpen(**fields, base_digest=digest))
        _, got, said = talk(getattr(edge.split, method), [request])
    if code == "OK":
        assert got is not grpc.StatusCode.INVALID_ARGUMENT
    else:
        assert got is grpc.StatusCode.INVALID_ARGUMENT
        assert all(part in said for part in ("ann", "cdcdcdcdcdcd", "abababababab", "--weights edge"))


def test_a_client_says_of_weights_from_an_edge_what_the_edge_says(tiny_bert, tmp_path):
    spec = spec_of(tiny_bert)
    digest = base_digest(Checkpoint.open(str(tiny_bert)), "float32", "classification", 3)
    local = RunBase("tiny-1", ClientSettings(name="ann", weights="local"))
    local.open(spec, list)
    assert local.digest(spec) == digest
    with edge_server() as edge:
        run = edge.open_run(spec, first_adapter(spec), ["ann"], base_digest=digest)
        settings = ClientSettings(name="ann", weights="edge", cache=tmp_path / "cache")
        base = RunBase(run.run_id, settings)
        try:
            base.open(spec, lambda: [fleet_pb2.EdgePeer(edge_id="edge", address=edge.address)])
            assert base.digest(spec) == digest
        finally:
            base.close()
