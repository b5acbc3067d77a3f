"""How commands reach their cloud: the flags of TLS, given or in the environment, and what they refuse."""

from pathlib import Path

import pytest

from services.rpc.tls_settings import FILES

SPEC = str(Path(__file__).parents[3] / "examples" / "docstrings.yaml")
COMMANDS = [
    ("clusters", "run-1"),
    ("plan", SPEC, "--run", "run-1"),
    ("run", "submit", SPEC),
    ("run", "list"),
    *(("run", name, "run-1") for name in ("watch", "show", "cancel")),
    ("run", "export", "run-1", "--to", "adapter"),
]
AWAY = "cloud.example:7400"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:2]))
def test_no_command_calls_a_cloud_off_loopback_without_tls(elsa, command):
    code, _, errors = elsa(*command, "--cloud", AWAY)
    assert (code, errors.count("\n")) == (1, 1)
    assert f"refusing to call {AWAY} without TLS: give --tls-ca" in errors


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:2]))
def test_every_command_takes_the_three_files_together(elsa, monkeypatch, command):
    code, _, errors = elsa(*command, "--tls-ca", "ca.pem")
    assert (code, errors) == (1, "error: TLS needs tls_ca, tls_cert, tls_key; tls_cert and tls_key are missing\n")
    for name in FILES:
        monkeypatch.setenv(f"ELSA_{name.upper()}", f"{name}.pem")
    code, _, errors = elsa(*command)
    assert code == 1
    assert errors.startswith("error: --tls-ca tls_ca.pem: cannot be read")
