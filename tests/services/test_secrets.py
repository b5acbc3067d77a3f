"""Secrets never in logs, in the list of processes, in the cloud's database and blobs, nor in exports.

A real run under TLS: roles as processes that log at DEBUG, keys and passwords that the test knows. All that they
write and all that others on the machine could see of them is searched.
"""

import base64
import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from fleet_harness import write_rows
from split_harness import spec_of

sys.path.append(str(Path(__file__).parent / "rpc"))  # certificates.py

from certificates import Authority

from services.rpc.identity import Identity
from services.testbed.processes import Processes

pytestmark = pytest.mark.timeout(300)  # three processes load torch
WORD, TOKEN, PASSWORD = "zqrowsecret", "hf_zqtokensecretzq", "zqdbsecret"
FLEET = {"min_clients": 2, "min_edges": 1, "enroll_timeout_s": 60}
PRELUDE = """
import os, secrets, sys
from services.rpc import process
process.set_up_logging.__defaults__ = ("DEBUG",)
made = secrets.token_bytes
def told(size=None):  # as before, and the test learns it
    found = made(size)
    with open(os.environ["TOLD"], "a") as file:
        file.write(found.hex() + "\\n")
    return found
secrets.token_bytes = told
from services.cli.__main__ import main
main()
"""


def forms(secret):
    """How bytes may stand in a text or a file."""
    return {secret, secret.hex().encode(), base64.b64encode(secret), repr(secret)[2:-1].encode()}


class Fleet:
    """Roles as processes under TLS, and what they and their operator showed."""

    def __init__(self, folder, processes):
        self.folder, self._processes = folder, processes
        self._authority = Authority(folder / "authority")
        self.told = folder / "told"
        self.told.touch()
        self.keys, self.shown = [], []

    def start(self, role, name, **given):
        """Start a role; its address."""
        ready = self.folder / f"{name}.json"
        own = {} if role == "cloud" else {"name": name}
        settings = {**own, **self._tls(role, name), **given, "ready_file": ready}
        environment = {f"ELSA_{key.upper()}": str(value) for key, value in settings.items()}
        environment |= {"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1", "TOLD": str(self.told)}
        environment |= {"XDG_CACHE_HOME": str(self.folder / "cache")}
        role = self._processes.start(name, [sys.executable, "-c", PRELUDE, role], environment)
        return self._processes.wait_ready(role, ready, 60)

    def operate(self, *arguments):
        """What `elsa run` prints."""
        command = [sys.executable, "-m", "services.cli", "run", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, check=True, env={**os.environ, **self.operator})
        self.shown += [done.stdout, done.stderr]
        return done.stdout.decode()

    def look(self):
        """What others on the machine see of its processes."""
        self.shown.append(subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, check=True).stdout)
        for each in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # it has ended
                self.shown.append(each.read_bytes())

    def become_operator(self, address):
        tls = {f"ELSA_{key.upper()}": str(path) for key, path in self._tls("admin", "ops").items()}
        self.operator = {**tls, "ELSA_CLOUD": address}

    def _tls(self, role, name):
        issued = self._authority.issued(Identity(role, name))
        self.keys.append(issued.key.read_bytes())
        return {"tls_ca": issued.ca, "tls_cert": issued.certificate, "tls_key": issued.key}


def rows_of(folder, name, seed):
    """A client's rows, with a word in each that must not leave."""
    path = write_rows(folder / f"{name}.jsonl", 24, seed)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "text": f"{row['text']} {WORD}"}) + "\n" for row in rows))
    return json.dumps({"words": str(path)})


@pytest.fixture(scope="module")
def run(tiny_bert, tmp_path_factory):
    """Folders of all that the fleet wrote, what its processes showed, and the secrets."""
    folder = tmp_path_factory.mktemp("secret-run")
    state, spec = folder / "state", folder / "spec.yaml"
    state.mkdir()
    privacy = {"ssop": {"rank": 4, "edge": "blind", "key": "run"}}
    spec.write_text(spec_of(tiny_bert, fleet=FLEET, privacy=privacy).to_yaml())
    with Processes(folder / "logs") as processes:
        fleet = Fleet(folder, processes)
        database = f"sqlite:///{state / 'elsa.db'}?password={PASSWORD}"
        address = fleet.start("cloud", "cloud", port=0, state=state, database_url=database)
        fleet.start("edge", "edge-1", cloud=address, state=folder / "edge")
        for seed, name in enumerate(("ann", "bob")):
            fleet.start("client", name, cloud=address, data=rows_of(folder, name, seed))
        fleet.become_operator(address)
        run_id = re.match(r"run (\S+)", fleet.operate("submit", spec))[1]
        fleet.look()
        fleet.operate("list"), fleet.operate("export", run_id, "--to", folder / "adapter")
    return {
        "written": [folder / "logs", state, folder / "adapter", folder / "edge"],
        "shown": fleet.shown,
        "keys": fleet.keys,
        "session_keys": [bytes.fromhex(line) for line in fleet.told.read_text().split()],
    }


def written(run):
    """Every file that the fleet wrote, with its bytes."""
    for folder in run["written"]:
        for path in folder.rglob("*"):
            if path.is_file():
                yield path, path.read_bytes()


def everything(run):
    yield from written(run)
    yield from (("what processes show", text) for text in run["shown"])


def found(run, secret):
    return [str(where) for where, data in everything(run) if secret in data]


def test_the_run_was_one_that_could_leak(run):
    """Logs are at DEBUG, the database and the export are there, and a key was made."""
    places = {path.name for path, _ in written(run)}
    assert {"cloud.log", "edge-1.log", "ann.log", "bob.log", "adapter_model.safetensors"} <= places
    assert any(name.startswith("elsa.db") for name in places)
    assert any(b" DEBUG " in data for path, data in written(run) if path.suffix == ".log")
    assert run["session_keys"] and len(run["keys"]) == 5
    assert any(b"services.rpc" in text for text in run["shown"])
    assert {Path(place).name for place in found(run, b"edge-1")} >= {"edge-1.log", "ann.log"}


def test_no_private_key_is_told(run):
    for pem in run["keys"]:
        for line in pem.splitlines()[1:-1]:
            assert found(run, line) == []
    assert [path for path, data in written(run) if b"PRIVATE KEY" in data] == []


def test_no_session_key_is_told(run):
    for key in run["session_keys"]:
        for form in forms(key):
            assert found(run, form) == []


@pytest.mark.parametrize("secret", [WORD, TOKEN, PASSWORD])
def test_no_row_no_token_and_no_password_is_told(run, secret):
    assert found(run, secret.encode()) == []
