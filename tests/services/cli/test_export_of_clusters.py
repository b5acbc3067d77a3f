"""A cluster's adapter is asked for by its number, the run's by none, and either is written whole."""

from concurrent import futures

import grpc
import numpy as np
import pytest

from elsa.model.adapter_config import AdapterConfig
from elsa.model.export import export
from elsa.v1 import run_pb2 as pb
from elsa.v1.run_pb2_grpc import RunServiceServicer, add_RunServiceServicer_to_server
from elsa.wire.chunks import split_chunks

CONFIG = AdapterConfig(rank=2, alpha=4, targets=("query",), modules_to_save=(), task="classification", base="minilm")


class Cloud(RunServiceServicer):
    """Exports the files of `folder` for the run trial, whose clusters are 0 and 1; notes what it is asked."""

    def __init__(self, folder):
        self.folder = folder
        self.asked = []

    def GetRun(self, request, context):
        return pb.GetRunResponse(run=pb.Run(run_id="trial"))

    def ExportAdapter(self, request, context):
        cluster = request.cluster if request.HasField("cluster") else None
        self.asked.append((request.version if request.HasField("version") else None, cluster))
        if cluster not in (None, 0, 1):
            context.abort(grpc.StatusCode.NOT_FOUND, f"run trial has no adapter of cluster {cluster}")
        for path in sorted(self.folder.iterdir()):
            data = path.read_bytes()
            yield pb.ExportAdapterResponse(file=pb.FileHeader(name=path.name, total_bytes=len(data)))
            for chunk in split_chunks(data, 1000):
                yield pb.ExportAdapterResponse(chunk=chunk)


@pytest.fixture
def exporting(tmp_path):
    folder = tmp_path / "kept"
    export(folder, {"base_model.model.x": np.ones((2, 3), np.float32)}, CONFIG, labels=("a", "b"), max_tokens=8)
    cloud, server = Cloud(folder), grpc.server(futures.ThreadPoolExecutor(2))
    add_RunServiceServicer_to_server(cloud, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield cloud, f"127.0.0.1:{port}"
    server.stop(None).wait()


def read(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        ((), (None, None)),
        (("--cluster", 0), (None, 0)),
        (("--cluster", 1, "--version", 3), (3, 1)),
    ],
)
def test_the_cluster_and_version_that_are_named_are_asked_for(elsa, exporting, tmp_path, flags, asked):
    cloud, address = exporting
    code, out, err = elsa("run", "export", "trial", *flags, "--to", tmp_path / "adapter", "--cloud", address)
    assert (code, err) == (0, "")
    assert f"{tmp_path / 'adapter'} is written" in out
    assert cloud.asked == [asked]
    assert read(tmp_path / "adapter") == read(cloud.folder)


def test_a_cluster_without_an_adapter_is_refused_and_nothing_is_written(refused, exporting):
    _, address = exporting
    assert "no adapter of cluster 7" in refused(
        "run", "export", "trial", "--cluster", 7, "--to", "x", "--cloud", address
    )


@pytest.mark.parametrize("flag", ["--cluster", "--version"])
@pytest.mark.parametrize("number", [-1, 2**32])
def test_a_number_that_no_message_holds_is_a_wrong_flag(refused, flag, number):
    assert f"Invalid value for '{flag}'" in refused("run", "export", "trial", flag, number, "--to", "x", code=2)
