"""An adapter round without compute: two edges and four clients, each pushing, aggregating and pulling for real.

Cloud and edges are processes; the four clients are threads of this one that speak the API and train nothing: they
open a session, finish it at step 0, push their bottom and top tensors, and pull what comes of it.
"""

import statistics
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

from benchmarks.fleet import Fleet, table
from elsa.data.corpus import LABELS
from elsa.model import adapter as adapters
from elsa.model.architecture import trunk_names
from elsa.model.weights import Checkpoint
from elsa.spec import RunSpec
from elsa.v1 import adapter_pb2, fleet_pb2, run_pb2, split_pb2
from elsa.v1.adapter_pb2_grpc import AdapterServiceStub
from elsa.v1.fleet_pb2_grpc import FleetServiceStub
from elsa.v1.run_pb2_grpc import RunServiceStub
from elsa.v1.split_pb2_grpc import SplitServiceStub
from elsa.wire.adapter import encode_adapter
from elsa.wire.codec.registry import codec_set_to_proto
from services.client.links import measure
from services.rpc.adapters import pull_when_there, push
from services.rpc.channel import connect

ROUNDS = 20
CLIENTS = 4


def specification() -> RunSpec:
    """Rounds of one edge round and no training."""
    return RunSpec.model_validate(
        {
            "name": "round",
            "preset": "none",
            "data": {"labels": LABELS},
            "training": {"rounds": ROUNDS, "edge_rounds": 1},
            "fleet": {"min_clients": CLIENTS, "min_edges": 2},
            "clustering": {"method": "none"},
            "plan": {"method": "given"},
        }
    )


class IdleClient:
    """A client that takes part in every round and trains nothing."""

    def __init__(self, name: str, cloud: str, spec: RunSpec, own: bytes) -> None:
        self.name = name
        self.pulled_s: list[float] = []
        self.done = threading.Event()
        self._spec = spec
        self._own = own
        channel = connect(cloud)
        self._fleet = FleetServiceStub(channel)
        self._runs = RunServiceStub(channel)
        self._fleet.RegisterClient(fleet_pb2.RegisterClientRequest(client_id=name, datasets=["default"]))
        threading.Thread(target=self._beat, daemon=True).start()

    def live(self) -> None:
        """Join the first run that is offered and stay to its end."""
        joined = False
        for message in self._fleet.WatchAssignment(fleet_pb2.WatchAssignmentRequest(node_id=self.name)):
            for assignment in message.assignments:
                if assignment.state == fleet_pb2.RUN_STATE_ENROLLING and not joined:
                    joined = True
                    offer = fleet_pb2.ClientOffer(train_rows=1, heldout_rows=1, links=measure(assignment.edges))
                    self._fleet.JoinRun(
                        fleet_pb2.JoinRunRequest(run_id=assignment.run_id, node_id=self.name, client=offer)
                    )
                if assignment.state == fleet_pb2.RUN_STATE_TRAINING:
                    self._rounds(assignment)
                    return

    def _rounds(self, assignment: fleet_pb2.Assignment) -> None:
        channel = connect(assignment.edges[0].address)
        edge, split = AdapterServiceStub(channel), SplitServiceStub(channel)
        for version in range(ROUNDS + 1):
            request = adapter_pb2.PullAdapterRequest(run_id=assignment.run_id, node_id=self.name, version=version)
            pull_when_there(edge, request, "edge", stop=threading.Event(), patience_s=60)
            self.pulled_s.append(time.perf_counter())
            if version < ROUNDS:
                self._push(assignment.run_id, version, edge, split)
        evaluation = run_pb2.Evaluation(version=ROUNDS, rows=1, loss=1.0, accuracy=0.0)
        self._runs.ReportEvaluation(
            run_pb2.ReportEvaluationRequest(run_id=assignment.run_id, client_id=self.name, evaluation=evaluation)
        )

    def _push(self, run_id: str, version: int, edge: AdapterServiceStub, split: SplitServiceStub) -> None:
        opening = split_pb2.TrainOpen(
            run_id=run_id,
            client_id=self.name,
            version=version,
            split=split_pb2.Split(bottom=1, trunk=4, top=1),
            codecs=codec_set_to_proto(self._spec.codecs, 384),
            window=1,
        )
        requests = [split_pb2.TrainRequest(open=opening), split_pb2.TrainRequest(finish=split_pb2.Finish(steps=0))]
        opened, _finished = split.Train(iter(requests))
        header = adapter_pb2.AdapterHeader(
            run_id=run_id,
            node_id=self.name,
            version=version,
            session_id=opened.opened.session_id,
            rows=1,
            reports=[adapter_pb2.ClientReport(client_id=self.name, rows=1)],
        )
        push(edge, header, self._own)

    def _beat(self) -> None:
        while not self.done.wait(1):
            self._fleet.Heartbeat(fleet_pb2.HeartbeatRequest(node_id=self.name))


def main() -> None:
    """Print the table."""
    spec = specification()
    checkpoint = Checkpoint.open(spec.model.source)
    config = adapters.adapter_config(checkpoint, spec.lora, spec.model.task, len(LABELS))
    whole = adapters.initial_adapter(checkpoint, config, len(LABELS), spec.seed)
    inner = trunk_names(whole, checkpoint.architecture, spec.split.of(6))
    own = encode_adapter({name: values for name, values in whole.items() if name not in inner})
    with tempfile.TemporaryDirectory() as name, Fleet(Path(name)) as fleet:
        for edge in ("edge-1", "edge-2"):
            fleet.edge(edge, CLIENTS // 2)
        clients = [IdleClient(f"client-{number}", fleet.cloud, spec, own) for number in range(CLIENTS)]
        threads = [threading.Thread(target=client.live) for client in clients]
        run_id = fleet.submit(spec)
        for thread in threads:
            thread.start()
        list(fleet.events(run_id))
        for thread in threads:
            thread.join()
        for client in clients:
            client.done.set()
    times = [max(at) for at in zip(*(client.pulled_s for client in clients), strict=True)]
    rounds = [after - before for before, after in pairwise(times)]
    size = len(encode_adapter(whole))
    print(f"{ROUNDS} adapter rounds without compute: 2 edges, {CLIENTS} clients, adapters of {size / 1e3:.0f} kB")
    print(
        table(
            [
                {
                    "median s": f"{statistics.median(rounds):.3f}",
                    "worst s": f"{max(rounds):.3f}",
                    "best s": f"{min(rounds):.3f}",
                    "": "(median at most 0.25)",
                }
            ]
        )
    )


if __name__ == "__main__":
    main()
