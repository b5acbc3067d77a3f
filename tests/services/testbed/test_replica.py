"""Replicas of a client: each takes a name of its own, holds it while it lives, and leaves it free however it ends."""

import json
import os
import subprocess
import sys

import pytest

from elsa.errors import CapacityError
from services.testbed.replica import ReplicaSettings, claim, environment, main, pool_names

HOLD = """
import sys, pathlib
from services.testbed.replica import claim
print(claim(pathlib.Path(sys.argv[1]))[0], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def pool(tmp_path):
    for name in pool_names(2):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def holder(pool):
    """`holder()`: another process that has taken a name, and the name."""
    started = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(pool)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_nobody_takes_a_name_that_is_held(pool, holder):
    assert [holder()[1], holder()[1]] == ["client-1", "client-2"]
    with pytest.raises(CapacityError, match=r"all 2 names in .* are taken"):
        claim(pool)


def test_a_name_is_free_again_once_its_holder_is_killed(pool, holder):
    process, name = holder()
    process.kill()
    process.wait()
    again, lock = claim(pool)
    os.close(lock)
    assert again == name


def test_ten_comes_after_two(tmp_path):
    for name in ("client-10", "client-2"):
        (tmp_path / name).mkdir()
    name, lock = claim(tmp_path)
    os.close(lock)
    assert name == "client-2"


def test_a_pool_that_is_not_there_is_told(tmp_path):
    with pytest.raises(CapacityError, match="all 0 names"):
        claim(tmp_path / "none")


def test_it_becomes_a_client_of_its_name_with_its_own_files(tmp_path):
    settings = ReplicaSettings(identities=tmp_path / "tls", rows=tmp_path / "rows", dataset="reviews")
    made = environment(settings, "client-2")
    assert made["ELSA_NAME"] == "client-2"
    assert made["ELSA_TLS_KEY"] == str(tmp_path / "tls" / "client-2" / "tls.key")
    assert json.loads(made["ELSA_DATA"]) == {"reviews": str(tmp_path / "rows" / "client-2" / "rows.jsonl")}


def test_what_it_becomes_holds_the_name(pool):
    """By a stand-in for the client."""
    become = """
from services.testbed import replica
replica.CLIENT = ("-c", "import os, sys; print(os.environ['ELSA_NAME'], flush=True); sys.stdin.read()")
replica.main()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", become],
        env={**os.environ, "ELSA_REPLICA_IDENTITIES": str(pool), "ELSA_REPLICA_ROWS": str(pool)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "client-1\n"
    name, lock = claim(pool)
    os.close(lock)
    process.communicate()
    assert name == "client-2"
    name, lock = claim(pool)
    os.close(lock)
    assert name == "client-1"


def test_missing_settings_are_one_line(monkeypatch, capsys):
    for name in ("ELSA_REPLICA_IDENTITIES", "ELSA_REPLICA_ROWS"):
        monkeypatch.delenv(name, raising=False)
    assert main() == 1
    said = capsys.readouterr().err
    assert said.startswith("error: settings of the replica (ELSA_REPLICA_...): ")
    assert said.count("\n") == 1
