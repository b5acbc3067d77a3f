"""`elsa run show` and `elsa run list`: a run as it stands, and of which version and of whom its accuracy is."""

from concurrent import futures

import grpc
import pytest

from elsa.v1 import fleet_pb2
from elsa.v1 import run_pb2 as pb
from elsa.v1.run_pb2_grpc import RunServiceServicer, add_RunServiceServicer_to_server

NEWEST = pb.Evaluation(version=3, rows=1200, accuracy=0.912, loss=0.3, clients=4)


class Listed(RunServiceServicer):
    """Has one run."""

    def __init__(self):
        self.run = pb.Run(run_id="trial-1", state=fleet_pb2.RUN_STATE_TRAINING, version=3, rounds=5)
        self.run.evaluations.append(NEWEST)

    def ListRuns(self, request, context):
        return pb.ListRunsResponse(runs=[self.run])


@pytest.fixture
def listed():
    """A cloud's runs, and its address."""
    server, servicer = grpc.server(futures.ThreadPoolExecutor(2)), Listed()
    add_RunServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
def words(elsa, monkeypatch):
    """What a command prints on a wide terminal, as words."""
    monkeypatch.setenv("COLUMNS", "140")

    def call(*arguments):
        code, out, err = elsa(*arguments)
        assert (code, err) == (0, "")
        return " ".join(out.split())

    return call


@pytest.mark.parametrize(
    ("version", "best", "said"),
    [(3, None, "0.912"), (4, None, "0.912 v3"), (4, 3, "0.912"), (3, 1, "0.912 v3")],
)
def test_a_list_names_the_version_of_an_accuracy_that_is_not_the_exported_ones(listed, words, version, best, said):
    servicer, address = listed
    servicer.run.version = version
    if best is not None:
        servicer.run.best_version = best
    assert f" {said} 4 clients, 1,200 rows " in words("run", "list", "--cloud", address)


def test_a_run_without_an_evaluation_is_listed_with_dashes(listed, words):
    servicer, address = listed
    del servicer.run.evaluations[:]
    assert " 3/5 0 0 – – " in words("run", "list", "--cloud", address)


def test_a_run_that_goes_on_is_shown_as_it_stands_at_once(elsa, words, cloud, tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text("name: trial\ndata: {labels: [a, b]}\nfleet: {enroll_timeout_s: 60}\n")
    run_id = words("run", "submit", path, "--no-watch", "--cloud", cloud).removeprefix("run ")
    assert words("run", "show", run_id, "--cloud", cloud).startswith(f"run {run_id} PENDING")
    elsa("run", "cancel", run_id, "--cloud", cloud)
    assert words("run", "show", run_id, "--cloud", cloud).startswith(
        f"run {run_id} CANCELLED cancelled by an operator"
    )
