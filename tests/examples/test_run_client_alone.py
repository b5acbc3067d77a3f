"""What the small Python client makes of a cloud's answers, whatever they are; the cloud is played here."""

import run_client
from rpc_servers import services_of, serving

from elsa.v1 import fleet_pb2, run_pb2, run_pb2_grpc, tensor_pb2

COMPLETED, FAILED = fleet_pb2.RUN_STATE_COMPLETED, fleet_pb2.RUN_STATE_FAILED


class Runs(run_pb2_grpc.RunServiceServicer):
    """One run, which ends in a state; its adapter comes as these files, each in these pieces."""

    def __init__(self, state, files):
        self._state, self._files = state, files
        self.asked = []

    def SubmitRun(self, request, context):  # noqa: N802 - the name of the call
        return run_pb2.SubmitRunResponse(run_id="small-1")

    def WatchRun(self, request, context):  # noqa: N802 - the name of the call
        yield run_pb2.WatchRunResponse(event=run_pb2.RunEvent(state_changed=run_pb2.StateChanged(state=self._state)))

    def ExportAdapter(self, request, context):  # noqa: N802 - the name of the call
        self.asked.append(request.run_id)
        for name, pieces in self._files.items():
            yield run_pb2.ExportAdapterResponse(file=run_pb2.FileHeader(name=name))
            for piece in pieces:
                yield run_pb2.ExportAdapterResponse(chunk=tensor_pb2.Chunk(data=piece))


def ended(tmp_path, state, files):
    """The exit status of the client, what it asked for, and the files beside its specification."""
    (tmp_path / "spec.yaml").write_text("name: small")
    runs = Runs(state, files)
    with serving("sync", services_of(runs=runs)) as address:
        status = run_client.main(str(tmp_path / "spec.yaml"), str(tmp_path / "at" / "adapter"), address)
    found = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    return status, runs.asked, {name: data for name, data in found.items() if name != "spec.yaml"}


def test_a_run_that_does_not_complete_is_a_failure_and_leaves_no_files(tmp_path):
    assert ended(tmp_path, FAILED, {"a.json": [b"{}"]}) == (1, [], {})


def test_files_that_come_in_pieces_are_whole(tmp_path):
    files = {"a.json": [b"{}"], "a.safetensors": [b"one", b"two", b"three"]}
    assert ended(tmp_path, COMPLETED, files) == (
        0,
        ["small-1"],
        {"at/adapter/a.json": b"{}", "at/adapter/a.safetensors": b"onetwothree"},
    )


def test_no_name_leads_out_of_the_folder(tmp_path):
    status, _, files = ended(tmp_path, COMPLETED, {"../../a.json": [b"{}"], "/b.json": [b"[]"]})
    assert (status, files) == (0, {"at/adapter/a.json": b"{}", "at/adapter/b.json": b"[]"})
