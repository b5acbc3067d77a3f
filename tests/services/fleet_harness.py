"""A whole system in one process: a real cloud, real edges and real clients, each with threads of its own."""

import asyncio
import json
import threading
from contextlib import ExitStack, contextmanager

import grpc
import numpy as np
from split_harness import LABELS, WORDS

from elsa.errors import ElsaError
from elsa.v1 import fleet_pb2, fleet_pb2_grpc, run_pb2, run_pb2_grpc
from services.client.service import Client
from services.client.settings import ClientSettings
from services.cloud.service import serving
from services.cloud.settings import CloudSettings
from services.edge.service import Edge
from services.edge.settings import EdgeSettings
from services.rpc.dial import LOOPBACK
from services.rpc.identity import CLOUD_HOST

ENDED = (fleet_pb2.RUN_STATE_COMPLETED, fleet_pb2.RUN_STATE_FAILED, fleet_pb2.RUN_STATE_CANCELLED)


def write_rows(path, count, seed):
    """A data file whose label follows from the first word."""
    draw = np.random.default_rng(seed)
    with path.open("w") as file:
        for _ in range(count):
            words = draw.integers(0, WORDS, draw.integers(3, 9, endpoint=True)).tolist()
            row = {"text": " ".join(f"w{word}" for word in words), "label": LABELS[words[0] % len(LABELS)]}
            file.write(json.dumps(row) + "\n")
    return path


@contextmanager
def cloud_serving(folder, **given):
    """The address of a cloud on a thread of its own."""
    quick = {"port": 0, "heartbeat_s": 0.5, "tick_s": 0.05, "gone_after_s": 5, "grace_s": 1}
    settings = CloudSettings(**{**quick, "state": folder / "cloud", **given})
    loop, address, stop = asyncio.new_event_loop(), [], asyncio.Event()
    ready = threading.Event()

    async def serve():
        async with serving(settings) as cloud:
            address.append(cloud.address)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="cloud")
    thread.start()
    try:
        assert ready.wait(30)
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()


class Role:
    """An edge or a client that follows its cloud on a thread."""

    def __init__(self, kind, settings):
        self.stop = threading.Event()
        self.node = kind(settings, self.stop)
        self.failure = None
        self.node.start()
        self._thread = threading.Thread(target=self._follow, name=f"{settings.name}-follow")
        self._thread.start()

    def _follow(self):
        try:
            self.node.follow()
        except ElsaError as error:
            self.failure = error

    def join(self):
        """Wait until it has ended by itself."""
        self._thread.join(40)
        assert not self._thread.is_alive()

    def close(self):
        self.node.close()
        self._thread.join(20)
        assert not self._thread.is_alive()


class System:
    """A cloud and who has registered with it."""

    def __init__(self, address, stack, dialer, folder):
        self.address, self._stack, self._folder = address, stack, folder
        channel = dialer.connect(address, CLOUD_HOST)
        stack.callback(channel.close)
        self.runs = run_pb2_grpc.RunServiceStub(channel)
        self.fleet = fleet_pb2_grpc.FleetServiceStub(channel)
        self.nodes = {}

    def edge(self, name, **given):
        fields = {"name": name, "cloud": self.address, "patience_s": 20, "state": self._folder / "state"}
        settings = EdgeSettings(**{**fields, **given})
        return self._add(name, Role(Edge, settings))

    def client(self, name, path, **given):
        fields = {"name": name, "cloud": self.address, "data": {"words": str(path)}, "patience_s": 20, **given}
        return self._add(name, Role(Client, ClientSettings(**fields)))

    def register_client(self, name):
        """Make a client known that never answers."""
        request = fleet_pb2.RegisterClientRequest(client_id=name, datasets=["words"])
        self.fleet.RegisterClient(request, timeout=10)

    def _add(self, name, role):
        self._stack.callback(role.close)
        self.nodes[name] = role
        return role

    def submit(self, spec):
        return self.runs.SubmitRun(run_pb2.SubmitRunRequest(spec=spec.to_yaml()), timeout=10).run_id

    def events(self, run_id, timeout=90):
        """The run's kept events, to its end."""
        for message in self.runs.WatchRun(run_pb2.WatchRunRequest(run_id=run_id), timeout=timeout):
            if message.event.sequence:
                yield message.event

    def wait(self, run_id, found, timeout=90):
        """The first event for which `found` is true."""
        watch = self.runs.WatchRun(run_pb2.WatchRunRequest(run_id=run_id), timeout=timeout)
        try:
            for message in watch:
                if found(message.event):
                    return message.event
        finally:
            watch.cancel()
        raise AssertionError(f"the run ended without that event: {self.get(run_id)}")

    def get(self, run_id):
        return self.runs.GetRun(run_pb2.GetRunRequest(run_id=run_id), timeout=10).run

    def export(self, run_id):
        """The exported files, by name."""
        files, name = {}, ""
        try:
            for message in self.runs.ExportAdapter(run_pb2.ExportAdapterRequest(run_id=run_id), timeout=30):
                if message.HasField("file"):
                    name = message.file.name
                    files[name] = b""
                else:
                    files[name] += message.chunk.data
        except grpc.RpcError as error:
            raise AssertionError(error.details()) from error
        return files


@contextmanager
def system(folder, dialer=LOOPBACK, **given):
    """A cloud, and what is registered with it within the context; all closed at its end.

    `dialer`: how the test itself calls the cloud.
    """
    with ExitStack() as stack:
        yield System(stack.enter_context(cloud_serving(folder, **given)), stack, dialer, folder)
