"""gRPC's own lines do not stand beside our errors, unless somebody asks for them."""

import os
import socket
import subprocess
import sys

import pytest

LIMIT_S = 60


def listening_on_a_taken_port(folder, command, **environment):
    """What a cloud says on standard error that finds its port taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = subprocess.run(
            [sys.executable, "-m", *command],
            env={
                **{name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"},
                "ELSA_PORT": str(taken.getsockname()[1]),
                "ELSA_STATE": str(folder / "state"),
                **environment,
            },
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
    assert done.returncode != 0
    return done.stderr


@pytest.mark.parametrize("command", [("services.cloud",), ("services.cli", "cloud")], ids=" ".join)
def test_a_taken_port_is_said_by_our_error_alone(tmp_path, command):
    said = listening_on_a_taken_port(tmp_path, command)
    assert said.count("cannot listen on") == 1 and ".cc:" not in said


def test_grpc_says_what_the_environment_asks_for(tmp_path):
    assert ".cc:" in listening_on_a_taken_port(tmp_path, ("services.cloud",), GRPC_VERBOSITY="ERROR")
