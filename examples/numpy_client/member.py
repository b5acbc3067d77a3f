"""A client's part in one run: it looks at the specification, joins, and trains round after round with its edge."""

import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import yaml
from numpy.typing import NDArray

from elsa.v1 import adapter_pb2, fleet_pb2, run_pb2, split_pb2
from elsa.v1.adapter_pb2_grpc import AdapterServiceStub
from elsa.v1.split_pb2_grpc import SplitServiceStub
from elsa.v1.tensor_pb2 import CodecSet
from numpy_client import peers, wire
from numpy_client.bert import AdamW, Array, Bert, cross_entropy
from numpy_client.cloud import CALL_S, Cloud
from numpy_client.rows import Batch, Row, batch, parted, read, shuffled
from numpy_client.words import Words

Dial = Callable[[str, str], grpc.Channel]
"""Gives a channel to an edge: its name and its address."""
Say = Callable[[str], None]
KNOWN: Mapping[str, tuple[object, ...]] = {
    "model.task": ("classification",),
    "model.base_dtype": ("float32",),
    "data.pair": (None,),
    "plan.method": ("given",),
    "lora.bottom_adapters": (True,),
    "training.dropout": (False,),
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

    def __init__(self, cloud: Cloud, dial: Dial, offered: fleet_pb2.Assignment, say: Say) -> None:
        self._cloud, self._dial, self._say = cloud, dial, say
        self._run_id, self._edges = offered.run_id, list(offered.edges)
        self._spec: dict[str, Any] = yaml.safe_load(offered.spec)
        self._training: dict[str, Any] = self._spec["training"]
        check(self._spec)

    def join(self, data: Path, heldout: Path | None) -> None:
        """Read the rows and join. Raises ValueError if the model or the rows are not for this client."""
        edge = SplitServiceStub(self._channel(self._edges[0]))
        files, _ = peers.patiently(lambda: peers.fetch(edge, self._wanted()))
        self._config = json.loads(files["config.json"])
        if self._config["model_type"] != "bert" or self._config.get("hidden_act", "gelu") != "gelu":
            raise ValueError(f"the model is {self._config['model_type']}; this client computes BERT alone")
        blocks = self._config["num_hidden_layers"]
        cut = self._spec["splits"].get(self._cloud.name, self._spec["split"])
        self._split = split_pb2.Split(bottom=cut["bottom"], top=cut["top"], trunk=blocks - cut["bottom"] - cut["top"])
        self._bottom, self._top = range(cut["bottom"]), range(blocks - cut["top"], blocks)
        words = Words(files["tokenizer.json"])
        self._rows = read(data, self._spec, words)
        if heldout is not None:
            self._kept = read(heldout, self._spec, words)
        else:
            self._rows, self._kept = parted(self._rows, self._spec["data"]["holdout"], self._spec["seed"])
        links = [fleet_pb2.LinkReport(edge_id=e.edge_id, latency_ms=self._latency_ms(e)) for e in self._edges]
        report = f"{len(self._rows)} rows to train on, {len(self._kept)} kept back"
        offer = fleet_pb2.ClientOffer(
            train_rows=len(self._rows), heldout_rows=len(self._kept), row_report=report, links=links
        )
        self._cloud.answer(self._run_id, client=offer)
        self._say(f"joined run {self._run_id} with {report}")

    def work(self, assignment: fleet_pb2.Assignment) -> None:
        """Train with the edge of the assignment to the last version. Raises grpc.RpcError if the run ends before."""
        channel = self._channel(assignment.edges[0])
        self._blocks, self._adapters = SplitServiceStub(channel), AdapterServiceStub(channel)
        request = self._wanted(blocks=[*self._bottom, *self._top], ends=True)
        _, base = peers.patiently(lambda: peers.fetch(self._blocks, request))
        lora = self._spec["lora"]
        self._model = Bert(self._config, base, lora["alpha"] / lora["rank"])
        self._place, self._evaluated = (assignment.version, 0), set[int]()
        while not peers.patiently(self._turn):
            self._tell("waiting")

    def _turn(self) -> bool:
        """Evaluate what is new and train the next round; whether it was the last version. After a fault, wherever
        the edge is then."""
        place, self._place = self._place, (0, 0)
        header, adapter = self._pull(*place)
        self._model.adapter = {name: values for name, values in adapter.items() if self._is_own(name)}
        if not header.edge_round and header.version not in self._evaluated:
            self._evaluate(header.version)
            self._evaluated.add(header.version)
        if header.version >= self._training["rounds"]:
            return True
        self._round(header)
        done = header.edge_round + 1 == self._training["edge_rounds"]
        self._place = (header.version + 1, 0) if done else (header.version, header.edge_round + 1)
        return False

    def _round(self, header: adapter_pb2.PulledHeader) -> None:
        """Train an edge round's steps, and push what is ours."""
        begin, losses = time.monotonic(), list[float]()
        optimizer = AdamW(self._model.adapter, self._training["optimizer"])
        opening = split_pb2.TrainOpen(
            edge_round=header.edge_round, wants_gradient=True, **self._opening(header.version)
        )
        seed = [self._spec["seed"], header.version, header.edge_round]
        steps = self._training["local_steps"]
        with peers.Stream(self._blocks.Train, split_pb2.TrainRequest, self._spec["codecs"]) as stream:
            opened = stream.ask("open", opening, "opened")
            for step, rows in enumerate(shuffled(self._rows, self._training["batch"], steps, seed)):
                losses.append(self._step(stream, step, rows))
                optimizer.step(self._model.take_gradients())
                self._tell("training", version=header.version, step=step + 1, steps=steps, loss=losses[-1])
            finish = split_pb2.Finish(
                steps=steps,
                seconds=split_pb2.PhaseSeconds(network=stream.seconds),
                bytes=split_pb2.ByteCount(up=stream.up, down=stream.down),
            )
            finished = stream.ask("finish", finish, "finished")
        report = adapter_pb2.ClientReport(
            client_id=self._cloud.name,
            edge_round=header.edge_round,
            rows=len(self._rows),
            steps=finished.steps,
            loss=sum(losses) / len(losses),
            seconds=finished.seconds,
            bytes=finished.bytes,
            wall_s=time.monotonic() - begin,
            split=self._split,
        )
        pushed = adapter_pb2.AdapterHeader(
            run_id=self._run_id,
            node_id=self._cloud.name,
            version=header.version,
            edge_round=header.edge_round,
            session_id=opened.session_id,
            rows=len(self._rows),
            reports=[report],
        )
        peers.push(self._adapters, pushed, self._model.adapter)
        self._say(f"version {header.version}, edge round {header.edge_round}: loss {report.loss:.4f}")

    def _step(self, stream: peers.Stream, step: int, rows: list[Row]) -> float:
        """The loss of a batch, with its gradients in the model."""
        loss, sizes = 0.0, np.array_split(range(len(rows)), min(self._training["micro_batches"], len(rows)))
        for number, places in enumerate(sizes):
            part = batch([rows[place] for place in places])
            hidden, to_bottom = self._model.bottom(part.ids, part.mask, self._bottom)
            above = stream.forward(step, number, hidden[part.mask], part.lengths)
            logits, to_top = self._model.top(unpacked(above, part), part.mask, self._top)
            part_loss, _, gradient = cross_entropy(logits, part.labels, len(rows))
            by_above = to_top(gradient)[part.mask]
            by_hidden = stream.backward(step, number, by_above, apply=number == len(sizes) - 1)
            to_bottom(unpacked(by_hidden, part))
            loss += part_loss
        return loss

    def _evaluate(self, version: int) -> None:
        """Evaluate a version on the rows kept back, through the edge, and report it to the cloud."""
        loss, hits, size = 0.0, 0, self._training["batch"]
        rows = sorted(self._kept, key=lambda row: len(row[0]))
        with peers.Stream(self._blocks.Predict, split_pb2.PredictRequest, self._spec["codecs"]) as stream:
            stream.ask("open", split_pb2.PredictOpen(**self._opening(version)), "opened")
            for step, start in enumerate(range(0, len(rows), size)):
                part = batch(rows[start : start + size])
                hidden, _ = self._model.bottom(part.ids, part.mask, self._bottom)
                above = stream.forward(step, 0, hidden[part.mask], part.lengths)
                logits, _ = self._model.top(unpacked(above, part), part.mask, self._top)
                part_loss, part_hits, _ = cross_entropy(logits, part.labels, len(rows))
                loss, hits = loss + part_loss, hits + part_hits
        found = run_pb2.Evaluation(version=version, rows=len(rows), loss=loss, accuracy=hits / len(rows))
        self._cloud.runs.ReportEvaluation(
            run_pb2.ReportEvaluationRequest(run_id=self._run_id, client_id=self._cloud.name, evaluation=found),
            timeout=CALL_S,
        )
        self._say(f"version {version}: accuracy {found.accuracy:.3f}, loss {loss:.4f} on {len(rows)} rows kept back")

    def _pull(self, version: int, edge_round: int) -> tuple[adapter_pb2.PulledHeader, dict[str, Array]]:
        request = adapter_pb2.PullAdapterRequest(
            run_id=self._run_id, node_id=self._cloud.name, version=version, edge_round=edge_round
        )
        return peers.pull(self._adapters, request)

    def _opening(self, version: int) -> dict[str, Any]:
        """What the openings of both kinds of stream say."""
        named = {tensor: wire.CODECS[self._spec["codecs"][tensor]] for tensor in ("h1", "h2", "dh2", "dh1")}
        return {
            "run_id": self._run_id,
            "client_id": self._cloud.name,
            "version": version,
            "split": self._split,
            "codecs": CodecSet(**named),
            "window": 1,
        }

    def _wanted(self, **parts: Any) -> split_pb2.FetchBlocksRequest:
        return split_pb2.FetchBlocksRequest(run_id=self._run_id, client_id=self._cloud.name, **parts)

    def _is_own(self, name: str) -> bool:
        """Whether an adapter's tensor is of our blocks or the head."""
        found = re.search(r"\.encoder\.layer\.(\d+)\.", name)
        return found is None or int(found[1]) in self._bottom or int(found[1]) in self._top

    def _channel(self, edge: fleet_pb2.EdgePeer) -> grpc.Channel:
        return self._dial(edge.edge_id, edge.address)

    def _latency_ms(self, edge: fleet_pb2.EdgePeer) -> float:
        """The median of five empty pings."""
        stub, taken = SplitServiceStub(self._channel(edge)), []
        for _ in range(6):
            begin = time.perf_counter()
            stub.Ping(split_pb2.PingRequest(), timeout=CALL_S)
            taken.append((time.perf_counter() - begin) * 1e3)
        return float(np.median(taken[1:]))  # the first one connects

    def _tell(self, activity: str, **more: Any) -> None:
        """What those who watch are told with the next heartbeat."""
        self._cloud.progress = fleet_pb2.Progress(run_id=self._run_id, activity=activity, **more)


def check(spec: Mapping[str, Any]) -> None:
    """Raise ValueError naming the first thing that this client cannot do."""
    for path, known in KNOWN.items():
        part, _, field = path.partition(".")
        if spec[part][field] not in known:
            names = " or ".join(str(value) for value in known)
            raise ValueError(f"{path} is {spec[part][field]!r}; this client, a small example, can do {names}")


def unpacked(packed: Array, part: Batch) -> Array:
    """(tokens, width) of the real tokens as (rows, tokens, width), zero at padding."""
    whole: NDArray[np.float32] = np.zeros((*part.mask.shape, packed.shape[1]), np.float32)
    whole[part.mask] = packed
    return whole
