"""The small programs that use RunService do what they say against a real fleet, with TLS and without."""

import json
import os
import shutil
import subprocess
import sys

import grpc
import pytest
import yaml
from certified_fleet import certified_system
from examples_folder import EXAMPLES
from fleet_harness import system, write_rows
from split_harness import LABELS

from elsa.spec import RunSpec

PYTHON = [sys.executable, str(EXAMPLES / "run_client.py")]
NODE = ["node", str(EXAMPLES / "node" / "run_client.js")]
REFLECT = [sys.executable, str(EXAMPLES / "reflect.py")]
NOBODY = "127.0.0.1:1"
SPEC = {
    "name": "small",
    "preset": "none",
    "model": {"max_tokens": 32},
    "data": {"name": "words", "labels": list(LABELS)},
    "training": {"rounds": 2, "edge_rounds": 1, "local_steps": 2, "batch": 8},
}


def ran(command, *arguments, tls=None):
    """What a program says and how it ends. It sees no setting of ours but those of TLS."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ELSA_")}
    done = subprocess.run(
        [*command, *map(str, arguments)], env={**clean, **(tls or {})}, capture_output=True, text=True, timeout=100
    )
    return done.returncode, done.stdout, done.stderr


def submitted(command, at, folder, model, tls=None):
    """What a program makes of a run: its words and the folder that it wrote."""
    spec = folder / "spec.yaml"
    spec.write_text(yaml.safe_dump({**SPEC, "model": {**SPEC["model"], "source": str(model)}}))
    code, out, err = ran(command, spec, folder / "adapter", at.address, tls=tls)
    assert code == 0, err
    return out, {path.name: path.read_bytes() for path in (folder / "adapter").iterdir()}


def check_run(at, out, files):
    assert out.splitlines()[0].startswith("small-1: RUN_STATE_PENDING")
    assert out.splitlines()[-1].startswith("small-1: RUN_STATE_COMPLETED")
    assert "small-1: version 2, accuracy 0." in out
    assert files == at.export("small-1")


def start(at, folder, certified=None):
    """An edge and a client."""
    tls = certified.settings if certified else lambda role, name: {}
    at.edge("edge-1", **tls("edge", "edge-1"))
    rows = write_rows(folder / "rows.jsonl", 24, 1)
    at.client("ann", rows, cache=folder / "cache", profiles=folder / "profiles", **tls("client", "ann"))


@pytest.mark.parametrize("command", [PYTHON, pytest.param(NODE, marks=pytest.mark.node)], ids=["python", "node"])
def test_a_run_is_submitted_followed_and_fetched(wordpiece_bert, tmp_path, command):
    with system(tmp_path) as at:
        start(at, tmp_path)
        check_run(at, *submitted(command, at, tmp_path, wordpiece_bert))
        kept = at.get("small-1").spec
    assert yaml.safe_load(kept)["lora"]["rank"] == 8  # which the file leaves open: who reads it needs no defaults
    assert RunSpec.from_yaml(kept).to_yaml() == kept


@pytest.mark.parametrize("command", [PYTHON, pytest.param(NODE, marks=pytest.mark.node)], ids=["python", "node"])
def test_so_it_is_under_tls(wordpiece_bert, tmp_path, command):
    with certified_system(tmp_path) as (at, certified):
        start(at, tmp_path, certified)
        tls = certified.environment("admin", "ops")
        check_run(at, *submitted(command, at, tmp_path, wordpiece_bert, tls))
        code, _, err = ran(command, tmp_path / "spec.yaml", tmp_path / "other", at.address)
        assert code != 0
        assert "UNAVAILABLE" in err
        client = certified.environment("client", "ann")
        code, _, err = ran(command, tmp_path / "spec.yaml", tmp_path / "other", at.address, tls=client)
        assert code != 0
        assert "client ann may not call SubmitRun: it is for admins" in err


@pytest.mark.parametrize(
    "command",
    [
        [*PYTHON, "spec", "folder"],
        [*REFLECT, "list"],
        pytest.param([*NODE, "spec", "folder"], marks=pytest.mark.node),
    ],
    ids=["python", "reflect", "node"],
)
def test_nobody_is_called_in_the_clear_but_this_machine(tmp_path, command):
    """Neither elsewhere, nor where a file of TLS is forgotten."""
    (tmp_path / "spec").write_text("")
    command = [str(tmp_path / part) if part in ("spec", "folder") else part for part in command]
    given = {"ELSA_TLS_CA": str(tmp_path / "ca.pem")}
    for address, tls in (("cloud.example:7400", {}), ("192.0.2.1:7400", given), ("127.0.0.1:1", given)):
        more = [] if command[-1] == "list" else [address]
        code, _, err = ran(command, *more, tls={"ELSA_CLOUD": address, **tls})
        assert code == 1
        assert f"to call {address}, set all of ELSA_TLS_CA, ELSA_TLS_CERT and ELSA_TLS_KEY" in err
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    "command",
    [
        [*PYTHON, EXAMPLES / "docstrings.yaml"],
        [*REFLECT, "list"],
        pytest.param([*NODE, EXAMPLES / "docstrings.yaml"], marks=pytest.mark.node),
    ],
    ids=["python", "reflect", "node"],
)
def test_where_nobody_answers_it_is_said_in_a_line(tmp_path, command):
    more = [] if command[-1] == "list" else [tmp_path / "folder", NOBODY]
    code, out, err = ran(command, *more, tls={"ELSA_CLOUD": NOBODY})
    assert (code, out, err.count("\n")) == (1, "", 1), err
    assert err.startswith("UNAVAILABLE: ")
    assert NOBODY in err


@pytest.mark.parametrize("command", [PYTHON, REFLECT], ids=["python", "reflect"])
def test_what_it_is_not_asked_rightly_it_tells_how_to_ask(command):
    code, _, err = ran(command)
    assert code == 1
    assert f"python examples/{command[1].rpartition('/')[2]}" in err
    assert "Traceback" not in err


def test_what_is_not_there_or_is_there_already_is_named_before_a_run_is_submitted(tmp_path):
    for spec, folder, named in ((tmp_path / "none.yaml", "new", "none.yaml"), ("spec", tmp_path, str(tmp_path))):
        code, _, err = ran(PYTHON, spec, folder, NOBODY)
        assert (code, err.count("\n")) == (1, 1), err
        assert named in err
    tls = {f"ELSA_TLS_{part}": str(tmp_path / f"{part}.pem") for part in ("CA", "CERT", "KEY")}
    for command in ([*PYTHON, "spec", "new"], [*REFLECT, "list"]):
        code, _, err = ran(command, tls=tls)
        assert (code, err.count("\n")) == (1, 1), err
        assert "CA.pem" in err


def reflected(at, *arguments, tls=None):
    code, out, err = ran(REFLECT, *arguments, tls={"ELSA_CLOUD": at.address, **(tls or {})})
    return out if code == 0 else (code, err)


def test_a_server_is_called_by_what_it_says_of_itself(wordpiece_bert, tmp_path):
    """Lists, descriptions, a unary call, a server's stream, and what is refused."""
    with system(tmp_path) as at:
        start(at, tmp_path)
        model = {**SPEC["model"], "source": str(wordpiece_bert)}
        asked = json.dumps({"spec": yaml.safe_dump({**SPEC, "model": model})})
        assert "elsa.v1.RunService" in reflected(at, "list").splitlines()
        said = reflected(at, "describe", "elsa.v1.RunService")
        assert "rpc WatchRun(elsa.v1.WatchRunRequest) returns (stream elsa.v1.WatchRunResponse)" in said
        assert "repeated elsa.v1.Evaluation evaluations = 11" in reflected(at, "describe", "elsa.v1.Run")
        assert "RUN_STATE_COMPLETED = 6" in reflected(at, "describe", "elsa.v1.RunState")
        answer = reflected(at, "call", "elsa.v1.RunService/SubmitRun", asked)
        assert json.loads(answer) == {"run_id": "small-1"}
        stream = reflected(at, "call", "elsa.v1.RunService/WatchRun", '{"run_id": "small-1"}')
        *_, last = map(json.loads, stream.splitlines())
        assert last["event"]["state_changed"]["state"] == "RUN_STATE_COMPLETED"
        unknown = reflected(at, "call", "elsa.v1.RunService/GetRun", '{"run_id": "none"}')
        assert unknown[0] == 1 and unknown[1].startswith("NOT_FOUND: ")
        assert reflected(at, "describe", "elsa.v1.Nothing")[0] == 1
        for asked in ("{no json", '{"nothing": 1}'):
            code, err = reflected(at, "call", "elsa.v1.RunService/ListRuns", asked)
            assert code == 1 and err.startswith("the request is not JSON of its message: ")


def test_an_edge_that_is_called_by_the_clouds_name_is_asked_for_by_its_own(tmp_path):
    with certified_system(tmp_path) as (at, certified):
        edge = at.edge("edge-1", port=0, **certified.settings("edge", "edge-1"))
        tls = {**certified.environment("admin", "ops"), "ELSA_CLOUD": edge.node.address}
        code, _, err = ran(REFLECT, "list", tls=tls)
        assert code == 1
        assert "Traceback" not in err and "over TLS as cloud.elsa.internal (ELSA_HOST_NAME)" in err
        code, out, err = ran(REFLECT, "list", tls={**tls, "ELSA_HOST_NAME": "edge-1.edge.elsa.internal"})
        assert code == 0 and "elsa.v1.SplitService" in out, err


def test_reflection_is_for_admins(tmp_path):
    with certified_system(tmp_path) as (at, certified):
        found = reflected(at, "list", tls=certified.environment("admin", "ops"))
        assert "elsa.v1.FleetService" in found.splitlines()
        code, err = reflected(at, "list", tls=certified.environment("client", "ann"))
        assert code == 1
        assert "PERMISSION_DENIED" in err


def test_tools_that_ask_for_a_later_reflection_are_told_to_ask_for_this_one(tmp_path):
    """grpcurl asks for v1 first, and for v1alpha where that is UNIMPLEMENTED: a refusal would end it."""
    with (
        certified_system(tmp_path) as (at, certified),
        certified.dialer("admin", "ops").connect(at.address, "cloud.elsa.internal") as channel,
    ):
        later = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.RpcError) as found:
            list(later(iter([b""]), timeout=10))
        assert found.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_reflection_needs_nothing_of_ours(tmp_path):
    """The script alone, elsewhere, without this package."""
    alone = shutil.copy(EXAMPLES / "reflect.py", tmp_path)
    code = f"import runpy, sys; runpy.run_path({str(alone)!r}); sys.exit(any('elsa' in m for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=60).returncode == 0
