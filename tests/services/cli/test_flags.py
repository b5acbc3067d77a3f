"""Flags come from the settings and win over the environment, which wins over the file, which wins over defaults."""

import subprocess
import sys

import pytest

from elsa.errors import SpecError
from services.cli.flags import merged
from services.client.settings import ClientSettings
from services.cloud.settings import CloudSettings
from services.edge.settings import EdgeSettings

COMMANDS = [
    ("cloud",),
    ("edge",),
    ("client",),
    ("demo",),
    ("predict",),
    ("clusters",),
    ("data", "partition"),
    *(("run", name) for name in ("submit", "watch", "list", "cancel", "export")),
]


def test_flags_win_over_environment_over_file_over_defaults(tmp_path, monkeypatch):
    path = tmp_path / "edge.yaml"
    path.write_text("name: of-file\ncapacity: 2\nidle-timeout-s: 9\n")
    monkeypatch.setenv("ELSA_CAPACITY", "3")
    monkeypatch.setenv("ELSA_THREADS", "4")
    found = merged(EdgeSettings, {"threads": "5"}, path, "edge")
    assert (found.name, found.capacity, found.idle_timeout_s, found.threads) == ("of-file", 3, 9.0, 5)
    assert found.host == "127.0.0.1"


def test_a_source_alone_is_the_default_data_set():
    found = merged(ClientSettings, {"data": ["rows.jsonl", "notes=notes.csv"]}, None, "client")
    assert found.data == {"default": "rows.jsonl", "notes": "notes.csv"}


def test_an_address_alone_names_no_edge():
    found = merged(ClientSettings, {"edge_addresses": ["edge-1=10.0.0.7:7500"]}, None, "client")
    assert found.edge_addresses == {"edge-1": "10.0.0.7:7500"}
    with pytest.raises(SpecError, match=r"names no host:port; write --edge-addresses NAME=HOST:PORT"):
        merged(ClientSettings, {"edge_addresses": ["10.0.0.7:7500"]}, None, "client")


@pytest.mark.parametrize(
    ("role", "kind"), [("cloud", CloudSettings), ("edge", EdgeSettings), ("client", ClientSettings)]
)
def test_every_setting_is_a_flag(elsa, monkeypatch, role, kind):
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = elsa(role, "--help")
    assert code == 0
    for name in kind.model_fields:
        assert f"--{name.replace('_', '-')}" in out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_shows_an_example(elsa, command):
    code, out, err = elsa(*command, "--help")
    assert (code, err) == (0, "")
    assert f"Example: elsa {' '.join(command)}" in " ".join(out.split())


@pytest.mark.parametrize(
    ("command", "shown", "unknown"),
    [("demo", "minilm (packaged)", "Minilm"), ("demo", "builtin, or", "Builtin"), ("edge", "host:port", "Host:port")],
)
def test_help_shows_values_as_they_are_typed(elsa, monkeypatch, command, shown, unknown):
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = elsa(command, "--help")
    assert shown in out
    assert unknown not in out


def test_help_loads_neither_torch_nor_grpc():
    code = "import sys; from services.cli.__main__ import status; status(['--help'])"
    code += "; sys.exit(' '.join({'torch', 'grpc', 'transformers', 'sklearn'} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "elsa demo" in done.stdout


def test_without_a_command_the_overview_is_shown(elsa):
    code, out, _ = elsa()
    assert code == 0
    assert "demo" in out


@pytest.mark.parametrize(
    ("kind", "given", "flag"),
    [
        (CloudSettings, {"database_url": "postgresql://me:hunter2@db/elsa"}, "--database-url"),
        (CloudSettings, {"blobs_url": "s3://bucket?secret=hunter2"}, "--blobs-url"),
        (ClientSettings, {"data": ["rows=https://me:hunter2@host/rows.jsonl"]}, "--data"),
    ],
)
def test_no_flag_takes_a_password(kind, given, flag):
    with pytest.raises(SpecError, match="others on this machine can read flags") as found:
        merged(kind, given, None, "cloud")
    assert str(found.value).startswith(f"{flag}: ") and "hunter2" not in str(found.value)


def test_environment_and_file_take_a_password(tmp_path, monkeypatch):
    url = "postgresql://me:hunter2@db/elsa"
    monkeypatch.setenv("ELSA_DATABASE_URL", url)
    assert merged(CloudSettings, {}, None, "cloud").database == url
    monkeypatch.delenv("ELSA_DATABASE_URL")
    (tmp_path / "cloud.yaml").write_text(f"database_url: {url}\n")
    assert merged(CloudSettings, {}, tmp_path / "cloud.yaml", "cloud").database == url
