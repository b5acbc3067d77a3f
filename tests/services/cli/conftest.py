"""The command in this process, and a real cloud in another."""

import pytest

from services.cli.__main__ import status
from services.testbed.processes import Processes, elsa_command


@pytest.fixture
def elsa(capsys, tmp_path, monkeypatch):
    """`elsa(*arguments)`: status, output and errors of the command, run in an empty folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("ELSA_CLOUD", "ELSA_PORT", "ELSA_STATE", "ELSA_NAME"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments):
        capsys.readouterr()  # what fixtures said is not the command's
        code = status([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def refused(elsa, tmp_path):
    """`refused(*arguments)`: the one line of a refusal; it must exit with 1 and leave nothing behind."""

    def call(*arguments, code=1):
        got, out, err = elsa(*arguments)
        assert (got, out) == (code, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert list((tmp_path / "here").iterdir()) == []
        return err

    return call


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    """The address of a real cloud."""
    folder = tmp_path_factory.mktemp("cloud")
    with Processes(folder / "logs") as processes:
        file = folder / "ready.json"
        command = elsa_command("cloud", "--port", "0", "--state", str(folder / "state"), "--ready-file", str(file))
        yield processes.wait_ready(processes.start("cloud", command), file, 60)
