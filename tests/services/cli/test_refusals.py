"""What cannot be used is refused on one line that says what, where and what to do; nothing is written."""

import json
import socket
import subprocess

import pytest

from services.testbed.processes import elsa_command

ROWS = [{"text": f"w{n}", "label": "ab"[n % 2]} for n in range(6)]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_missing_spec(refused):
    assert "nowhere.yaml: cannot be read (No such file" in refused("run", "submit", "nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data: {labels: [a, b]}\nrouns: 3", "rouns: unknown field; check its spelling"),
        (
            "data: {labels: [a, b]}\ntraining: {rounds: 0}",
            "training.rounds: Input should be greater than or equal to 1",
        ),
        ("data: {labels: [a]}", "at least two different label names"),
        ("a: [", "is not YAML"),
    ],
)
def test_wrong_spec(refused, tmp_path, text, said):
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    line = refused("run", "submit", path)
    assert said in line
    assert str(path) in line


def test_unknown_column(refused, rows):
    line = refused("data", "partition", rows, "--parts", 2, "--by", "site", "--to", "shards")
    assert "no column 'site', which --by names, in a row whose columns are 'text', 'label'" in line
    assert "'mood', which --label names" in refused("demo", "--data", rows, "--label", "mood")


def test_missing_data_file(refused):
    line = refused("data", "partition", "nowhere.jsonl", "--parts", 2, "--to", "shards")
    assert "nowhere.jsonl: no such file" in line
    assert "nowhere.csv: no such file" in refused("demo", "--data", "nowhere.csv")


def test_more_clients_than_rows(refused, rows):
    assert "6 rows are too few for 7 parts" in refused("data", "partition", rows, "--parts", 7, "--to", "shards")
    assert "rows are too few for 4 parts of at least 2" in refused("demo", "--data", rows, "--clients", 4)


def test_ways_to_partition_that_exclude_each_other(refused, rows):
    line = refused("data", "partition", rows, "--parts", 2, "--to", "s", "--iid", "--alpha", 1)
    assert "--alpha and --iid exclude each other" in line


def test_impossible_split(refused, rows, tiny_bert):
    ends = ("--bottom", 9, "--top", 9)
    line = refused("demo", "--data", rows, "--clients", 2, "--edges", 1, "--model", tiny_bert, *ends)
    assert "split with bottom 9 and top 9 leaves no trunk" in line
    assert "bottom: Input should be greater than or equal to 1" in refused("demo", "--data", rows, "--bottom", 0)


def test_more_tokens_than_positions(refused, rows, tiny_bert):
    line = refused("demo", "--data", rows, "--clients", 2, "--edges", 1, "--model", tiny_bert, "--max-tokens", 129)
    assert "model.max_tokens 129: the model has 128 positions; lower it" in line


def test_more_edges_than_clients(refused):
    assert "3 edges are more than 2 clients" in refused("demo", "--clients", 2, "--edges", 3)


def test_a_demo_that_would_group_nobody(refused, rows):
    given = ("--data", rows, "--clusters", "--clients", 2)
    assert "nobody is grouped with 1 edge" in refused("demo", *given, "--edges", 1)
    assert "privacy.ssop" in refused("demo", *given, "--preset", "paper")
    assert "nobody would be asked; give --clusters too" in refused("demo", "--probes", "probes.txt")
    assert "nowhere.txt cannot be read" in refused("demo", *given, "--probes", "nowhere.txt")


def test_unknown_model_folder(refused, rows):
    line = refused("demo", "--data", rows, "--clients", 2, "--model", "./nowhere")
    assert "no model folder at ./nowhere" in line


def test_unknown_adapter_folder(refused, tmp_path):
    assert "no adapter folder at nowhere" in refused("predict", "nowhere", "text")
    assert "no adapter_config.json in adapter folder" in refused("predict", tmp_path, "text")


def test_output_that_holds_something_else(elsa, tmp_path, rows):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").touch()
    code, _, err = elsa("demo", "--data", rows, "--output", tmp_path / "thesis")
    assert code == 1
    assert "exists and holds no demo" in err
    code, _, err = elsa("data", "partition", rows, "--parts", 2, "--to", tmp_path / "thesis")
    assert code == 1
    assert "exists and is not empty" in err
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter"]


def test_cloud_that_is_not_there(elsa):
    code, out, err = elsa("run", "list", "--cloud", "127.0.0.1:1", "--patience", 0)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: cloud 127.0.0.1:1 did not answer for 0 s; gave up: ")


@pytest.mark.parametrize("command", [("watch",), ("show",), ("cancel",), ("export", "--to", "adapter")])
def test_unknown_run(refused, cloud, command):
    line = refused("run", command[0], "7f3a", *command[1:], "--cloud", cloud)
    assert f"cloud {cloud} has no run '7f3a'; elsa run list shows those it has" in line


def test_busy_port(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = elsa_command("cloud", "--port", str(port), "--state", str(tmp_path / "state"))
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: cannot listen on 127.0.0.1:{port}: taken")
    assert "Traceback" not in done.stderr


def test_wrong_flags_are_refused_with_status_2(refused):
    assert "No such option: --frob" in refused("cloud", "--frob", code=2)
    assert "No such command 'frob'" in refused("frob", code=2)
    assert "Missing argument" in refused("predict", code=2)


def test_wrong_settings(refused, tmp_path, monkeypatch):
    assert "settings of the edge: port: Input should be less" in refused("edge", "--port", 99999)
    assert "'a' is given twice" in refused("client", "--data", "a=x", "--data", "a=y")
    assert "names no source" in refused("client", "--data", "a=")
    path = tmp_path / "edge.yaml"
    path.write_text("capactiy: 3")
    assert "settings of the edge: capactiy: unknown field; check its spelling" in refused("edge", "--config", path)
    path.write_text("- 3")
    assert "must hold names and values" in refused("edge", "--config", path)
    assert "cannot be read" in refused("edge", "--config", "nowhere.yaml")
    monkeypatch.setenv("ELSA_DATA", "not json")
    assert "settings of the client" in refused("client")
