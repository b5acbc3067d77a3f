"""The testbed's run is submitted once: whoever is started again in the middle of it follows the same run."""

from pathlib import Path

import pytest

from elsa.errors import NotFoundError, UnreachableError
from services.testbed import submission
from services.testbed.submission import main, submitted

SPEC = Path(__file__).parents[3] / "examples" / "testbed.yaml"


class Cloud:
    """Numbers the runs that it is given, and keeps which were fetched."""

    def __init__(self):
        self.runs, self.fetched = [], []

    def submit(self, spec):
        self.runs.append(f"testbed-{len(self.runs) + 1}")
        return self.runs[-1]

    def export(self, run_id, folder):
        self.fetched.append((run_id, folder))


@pytest.fixture
def cloud():
    return Cloud()


@pytest.fixture
def start(cloud, tmp_path, monkeypatch):
    """`start(ends)`: the container's program, once, where following the run ends so; its status."""

    def once(ends, folder="a"):
        def follow(operator, run_id):
            if isinstance(ends, BaseException):
                raise ends
            return ends

        monkeypatch.setattr(submission, "follow", follow)
        return submitted(cloud, SPEC, tmp_path / f".run-of-{folder}", tmp_path / "adapters")

    return once


@pytest.mark.parametrize("cut", [KeyboardInterrupt, UnreachableError], ids=lambda kind: kind.__name__)
def test_who_is_cut_off_follows_the_same_run_when_started_again(cloud, start, tmp_path, cut, capsys):
    with pytest.raises(cut):
        start(cut("the cloud is away"))
    assert start(0) == 0
    assert cloud.runs == ["testbed-1"]
    assert cloud.fetched == [("testbed-1", tmp_path / "adapters" / "testbed-1")]
    assert "goes on with run testbed-1" in capsys.readouterr().out


@pytest.mark.parametrize("status", [0, 1])
def test_after_its_run_has_ended_it_submits_another(cloud, start, status):
    assert [start(status), start(0)] == [status, 0]
    assert cloud.runs == ["testbed-1", "testbed-2"]
    assert [run_id for run_id, _ in cloud.fetched] == ["testbed-1", "testbed-2"][status:]


def test_a_run_that_the_cloud_does_not_know_is_followed_no_more(cloud, start):
    with pytest.raises(NotFoundError):
        start(NotFoundError("no run testbed-1"))
    assert start(0) == 0
    assert cloud.runs == ["testbed-1", "testbed-2"]


def test_containers_beside_each_other_have_runs_of_their_own(cloud, start):
    with pytest.raises(KeyboardInterrupt):
        start(KeyboardInterrupt())
    assert start(0, "b") == 0
    assert cloud.runs == ["testbed-1", "testbed-2"]


def test_with_arguments_it_is_the_command(monkeypatch):
    seen = []

    def become(path, given):
        seen.append(given[1:])
        raise SystemExit

    monkeypatch.setattr(submission.os, "execv", become)
    with pytest.raises(SystemExit):
        main(["run", "list"])
    assert seen == [["-m", "services.cli", "run", "list"]]


@pytest.mark.parametrize(("given", "named"), [({}, "cloud"), ({"ELSA_CLOUD": "cloud.example:7400"}, "TLS")])
def test_what_is_missing_is_said_in_a_line(monkeypatch, capsys, given, named):
    for name in ("CLOUD", "TLS_CA", "TLS_CERT", "TLS_KEY"):
        monkeypatch.delenv(f"ELSA_{name}", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert main([]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and named in said
