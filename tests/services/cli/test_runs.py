"""Operators and a real cloud: submit, list, cancel, watch and export, by ids or what begins them."""

import pytest

from elsa.errors import NotFoundError
from services.cli.operator import Operator

SPEC = "name: trial\ndata: {labels: [a, b]}\nfleet: {enroll_timeout_s: 60}\n"


@pytest.fixture
def submitted(elsa, cloud, tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)

    def call():
        code, out, err = elsa("run", "submit", path, "--no-watch", "--cloud", cloud)
        assert (code, err) == (0, "")
        return out.removeprefix("run ").strip()

    return call


def test_a_submitted_run_is_listed_until_it_is_cancelled(elsa, cloud, submitted):
    run_id = submitted()
    _, out, _ = elsa("run", "list", "--cloud", cloud)
    assert any(run_id in line and "PENDING" in line for line in out.splitlines())
    code, out, _ = elsa("run", "cancel", run_id, "--cloud", cloud)
    assert (code, out) == (0, f"run {run_id} is cancelled\n")
    _, out, _ = elsa("run", "list", "--cloud", cloud)
    assert any(run_id in line and "CANCELLED" in line for line in out.splitlines())


def test_watching_a_cancelled_run_ends_with_status_1(elsa, cloud, submitted):
    run_id = submitted()
    elsa("run", "cancel", run_id, "--cloud", cloud)
    code, out, err = elsa("run", "watch", run_id, "--cloud", cloud)
    assert code == 1
    assert "run is PENDING" in out
    assert err.startswith(f"error: run {run_id} is CANCELLED")


def test_cancelling_twice_and_exporting_nothing_are_refused(elsa, refused, cloud, submitted):
    run_id = submitted()
    elsa("run", "cancel", run_id, "--cloud", cloud)
    assert run_id in refused("run", "cancel", run_id, "--cloud", cloud)
    refused("run", "export", run_id, "--to", "adapter", "--cloud", cloud)


def test_export_refuses_a_folder_of_something_else_before_it_asks(elsa, tmp_path):
    (tmp_path / "notes.txt").touch()
    code, _, err = elsa("run", "export", "x", "--to", tmp_path, "--cloud", "127.0.0.1:1", "--patience", 0)
    assert code == 1
    assert "exists and is no exported adapter" in err


def test_a_prefix_names_a_run_where_it_names_only_one(cloud, submitted):
    first, second = submitted(), submitted()
    shared = next(first[:end] for end in range(len(first), 0, -1) if second.startswith(first[:end]))
    with Operator(cloud, 10) as operator:
        assert operator.resolve(first) == first
        with pytest.raises(NotFoundError, match=r"begins the ids of \d+ runs"):
            operator.resolve(shared)
        with pytest.raises(NotFoundError, match="has no run 'zzz'"):
            operator.resolve("zzz")
