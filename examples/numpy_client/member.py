"""A client's part in one run: it looks at the specification, finds out whether it can take part, and joins."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import yaml

from elsa.v1 import fleet_pb2, split_pb2
from elsa.v1.adapter_pb2_grpc import AdapterServiceStub
from elsa.v1.split_pb2_grpc import SplitServiceStub
from numpy_client import peers, wire
from numpy_client.bert import Bert
from numpy_client.cloud import CALL_S, Cloud
from numpy_client.rounds import Rounds
from numpy_client.rows import parted, read
from numpy_client.words import Words

Dial = Callable[[str, str], grpc.Channel]
"""Gives a channel to an edge: its name and its address."""
PINGS = 5
KNOWN: Mapping[str, tuple[object, ...]] = {
    "model.task": ("classification",),
    "model.base_dtype": ("float32",),
    "data.pair": (None,),
    "data.long_rows": ("cut",),
    "plan.method": ("given",),
    "lora.bottom_adapters": (True,),
    "training.dropout": (False,),
    "training.early_stopping": (None,),
    "codecs.h1": tuple(wire.CODECS),
    "codecs.h2": tuple(wire.CODECS),
    "codecs.dh2": tuple(wire.CODECS),
    "codecs.dh1": tuple(wire.CODECS),
    "privacy.ssop": (None,),
    "privacy.noise": (None,),
    "privacy.adversary": (None,),
    "reuse.enabled": (False,),
    "clustering.method": ("none",),
}
"""What this client can do of what a specification may ask."""


class Member:
    """This client in the run that it was offered; then `join` and `work`.

    Raises ValueError if it cannot do what the specification asks.
    """

    def __init__(self, cloud: Cloud, dial: Dial, offered: fleet_pb2.Assignment, say: Callable[[str], None]) -> None:
        self._cloud, self._dial, self._say = cloud, dial, say
        self._run_id, self._edges = offered.run_id, list(offered.edges)
        self._spec: dict[str, Any] = yaml.safe_load(offered.spec)
        check(self._spec)

    def join(self, data: Path, heldout: Path | None) -> None:
        """Read the rows and join. Raises ValueError if the model or the rows are not for this client."""
        edge = SplitServiceStub(self._channel(self._edges[0]))
        files, _ = peers.patiently(lambda: peers.fetch(edge, self._wanted()))
        self._config = json.loads(files["config.json"])
        if self._config["model_type"] != "bert" or self._config.get("hidden_act", "gelu") != "gelu":
            raise ValueError(f"the model is {self._config['model_type']}; this client computes BERT alone")
        words = Words(files["tokenizer.json"])
        self._rows = read(data, self._spec, words)
        if heldout is not None:
            self._kept = read(heldout, self._spec, words)
        else:
            self._rows, self._kept = parted(self._rows, self._spec["data"]["holdout"], self._spec["seed"])
        report = f"{len(self._rows)} rows to train on, {len(self._kept)} kept back"
        offer = fleet_pb2.ClientOffer(
            train_rows=len(self._rows),
            heldout_rows=len(self._kept),
            row_report=report,
            links=[fleet_pb2.LinkReport(edge_id=e.edge_id, latency_ms=self._latency_ms(e)) for e in self._edges],
        )
        self._cloud.answer(self._run_id, client=offer)
        self._say(f"joined run {self._run_id} with {report}")

    def work(self, assignment: fleet_pb2.Assignment) -> None:
        """Train with the edge of the assignment to the last version. Raises grpc.RpcError if the run ends before."""
        split, channel = self._split(), self._channel(assignment.edges[0])
        edge = SplitServiceStub(channel)
        blocks = [block for block in range(self._blocks) if not 0 <= block - split.bottom < split.trunk]
        request = self._wanted(blocks=blocks, ends=True)
        _, base = peers.patiently(lambda: peers.fetch(edge, request))
        lora = self._spec["lora"]
        rounds = Rounds(
            self._cloud,
            self._run_id,
            self._spec,
            Bert(self._config, base, lora["alpha"] / lora["rank"]),
            split,
            self._rows,
            self._kept,
            edge=edge,
            adapters=AdapterServiceStub(channel),
            say=self._say,
        )
        rounds.run(assignment.version)

    @property
    def _blocks(self) -> int:
        return int(self._config["num_hidden_layers"])

    def _split(self) -> split_pb2.Split:
        """How the specification cuts this client's model."""
        cut = self._spec["splits"].get(self._cloud.name, self._spec["split"])
        bottom, top = cut["bottom"], cut["top"]
        return split_pb2.Split(bottom=bottom, trunk=self._blocks - bottom - top, top=top)

    def _wanted(self, **parts: Any) -> split_pb2.FetchBlocksRequest:
        return split_pb2.FetchBlocksRequest(run_id=self._run_id, client_id=self._cloud.name, **parts)

    def _channel(self, edge: fleet_pb2.EdgePeer) -> grpc.Channel:
        return self._dial(edge.edge_id, edge.address)

    def _latency_ms(self, edge: fleet_pb2.EdgePeer) -> float:
        """The median of some empty pings after one that connects."""
        stub, taken = SplitServiceStub(self._channel(edge)), []
        for _ in range(1 + PINGS):
            begin = time.perf_counter()
            stub.Ping(split_pb2.PingRequest(), timeout=CALL_S)
            taken.append((time.perf_counter() - begin) * 1e3)
        return float(np.median(taken[1:]))


def check(spec: Mapping[str, Any]) -> None:
    """Raise ValueError naming the first thing that this client cannot do."""
    for path, known in KNOWN.items():
        part, _, field = path.partition(".")
        if spec[part][field] not in known:
            names = " or ".join(str(value) for value in known)
            raise ValueError(f"{path} is {spec[part][field]!r}; this client, a small example, can do {names}")
