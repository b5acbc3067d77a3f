"""`elsa run submit --to`: the adapter is exported once the run completes; a place that is taken is refused first."""

import pytest

from elsa.v1 import fleet_pb2
from elsa.v1 import run_pb2 as pb
from services.cli.operator import Operator

SPEC = "name: trial\ndata: {labels: [a, b]}\n"


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def ending(monkeypatch):
    """`ending(state)`: a cloud whose runs are trial-7 and end so; what is done there, as (call, arguments)."""

    def of(state):
        asked = []
        change = pb.StateChanged(state=state)
        monkeypatch.setattr(Operator, "submit", lambda self, text: asked.append(("submit",)) or "trial-7")
        monkeypatch.setattr(Operator, "watch", lambda self, run: iter([pb.RunEvent(state_changed=change)]))
        monkeypatch.setattr(Operator, "export", lambda self, run, folder: asked.append(("export", run, str(folder))))
        return asked

    return of


def test_a_completed_runs_adapter_is_exported_under_its_id(elsa, spec, ending):
    asked = ending(fleet_pb2.RUN_STATE_COMPLETED)
    code, out, _ = elsa("run", "submit", spec, "--to", "adapters/{run}")
    assert code == 0
    assert asked == [("submit",), ("export", "trial-7", "adapters/trial-7")]
    assert out.endswith("adapters/trial-7 is written\n")


def test_a_failed_run_exports_nothing(elsa, spec, ending):
    asked = ending(fleet_pb2.RUN_STATE_FAILED)
    code, _, _ = elsa("run", "submit", spec, "--to", "adapter")
    assert (code, asked) == (1, [("submit",)])


def test_a_folder_with_something_in_it_is_refused_before_anything_is_submitted(elsa, spec, ending, tmp_path):
    asked = ending(fleet_pb2.RUN_STATE_COMPLETED)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "adapter_config.json").touch()
    code, out, err = elsa("run", "submit", spec, "--to", taken)
    assert (code, out, asked) == (1, "", [])
    assert "exists and is not empty" in err


def test_nobody_waits_for_an_adapter_that_is_not_watched(elsa, spec, ending):
    asked = ending(fleet_pb2.RUN_STATE_COMPLETED)
    code, _, err = elsa("run", "submit", spec, "--no-watch", "--to", "adapter")
    assert (code, asked) == (1, [])
    assert "--no-watch" in err
