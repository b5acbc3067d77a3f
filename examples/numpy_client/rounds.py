"""A client's rounds with its edge: pull, evaluate what is new, train, push, until the last version."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from elsa.v1 import adapter_pb2, fleet_pb2, run_pb2, split_pb2
from elsa.v1.tensor_pb2 import CodecSet
from numpy_client import peers, wire
from numpy_client.bert import AdamW, Array, Back, Bert, cross_entropy
from numpy_client.cloud import CALL_S, Cloud
from numpy_client.rows import Batch, Row, batch, shuffled


class Rounds:
    """The rounds of one run.

    Args:
        rows, kept: to train on, and to evaluate on.
        edge, adapters: stubs of the edge.
    """

    def __init__(
        self,
        cloud: Cloud,
        run_id: str,
        spec: Mapping[str, Any],
        model: Bert,
        split: split_pb2.Split,
        rows: list[Row],
        kept: list[Row],
        *,
        edge: Any,
        adapters: Any,
        say: Callable[[str], None],
    ) -> None:
        self._cloud, self._run_id, self._spec, self._say = cloud, run_id, spec, say
        self._training: Mapping[str, Any] = spec["training"]
        self._model, self._split, self._rows, self._kept = model, split, rows, kept
        self._edge, self._adapters = edge, adapters
        self._bottom = range(split.bottom)
        self._top = range(split.bottom + split.trunk, split.bottom + split.trunk + split.top)
        self._seconds = {"bottom": 0.0, "top": 0.0}
        self._place, self._evaluated = (0, 0), set[int]()

    def run(self, version: int) -> None:
        """Work from a version to the last one. Raises grpc.RpcError if the run ends or the edge stays away."""
        self._place = (version, 0)
        while not peers.patiently(self._turn):
            self._tell("waiting for the next round")

    def _turn(self) -> bool:
        """Evaluate what is new and train a round; whether it was the last version. After a fault from the edge's."""
        place, self._place = self._place, (0, 0)
        header, adapter = self._pull(*place)
        self._model.adapter = {name: values for name, values in adapter.items() if self._is_own(name)}
        if not header.edge_round and header.version not in self._evaluated:
            self._evaluate(header.version)
            self._evaluated.add(header.version)
        if header.version >= self._training["rounds"]:
            return True
        begin = time.monotonic()
        session_id, report = self._train(header)
        report.wall_s = time.monotonic() - begin
        self._push(header, session_id, report)
        done = header.edge_round + 1 == self._training["edge_rounds"]
        self._place = (header.version + 1, 0) if done else (header.version, header.edge_round + 1)
        return False

    def _pull(self, version: int, edge_round: int) -> tuple[adapter_pb2.PulledHeader, dict[str, Array]]:
        self._tell("waiting for an adapter")
        request = adapter_pb2.PullAdapterRequest(
            run_id=self._run_id, node_id=self._cloud.name, version=version, edge_round=edge_round
        )
        return peers.pull(self._adapters, request)

    def _train(self, header: adapter_pb2.PulledHeader) -> tuple[str, adapter_pb2.ClientReport]:
        """Train an edge round's steps; the session at the edge, and what to report."""
        self._seconds, losses = {"bottom": 0.0, "top": 0.0}, list[float]()
        optimizer = AdamW(self._model.adapter, self._training["optimizer"])
        opening = split_pb2.TrainOpen(
            edge_round=header.edge_round, wants_gradient=True, **self._opening(header.version)
        )
        seed = [self._spec["seed"], header.version, header.edge_round]
        steps = self._training["local_steps"]
        with peers.Stream(self._edge.Train, split_pb2.TrainRequest, self._spec["codecs"]) as stream:
            opened = stream.ask("open", opening, "opened")
            for step, rows in enumerate(shuffled(self._rows, self._training["batch"], steps, seed)):
                losses.append(self._step(stream, step, rows))
                with self._timing("top"):
                    optimizer.step(self._model.take_gradients())
                self._tell("training", version=header.version, step=step + 1, steps=steps, loss=losses[-1])
            finish = split_pb2.Finish(
                steps=steps,
                seconds=split_pb2.PhaseSeconds(network=stream.seconds, **self._seconds),
                bytes=split_pb2.ByteCount(up=stream.up, down=stream.down),
            )
            finished = stream.ask("finish", finish, "finished")
        return opened.session_id, adapter_pb2.ClientReport(
            client_id=self._cloud.name,
            edge_round=header.edge_round,
            rows=len(self._rows),
            steps=finished.steps,
            loss=sum(losses) / len(losses),
            seconds=finished.seconds,
            bytes=finished.bytes,
            split=self._split,
        )

    def _step(self, stream: peers.Stream, step: int, rows: list[Row]) -> float:
        """The loss of a batch, with its gradients in the model."""
        loss, parts = 0.0, np.array_split(range(len(rows)), min(self._training["micro_batches"], len(rows)))
        for number, places in enumerate(parts):
            part = batch([rows[place] for place in places])
            hidden, to_bottom = self._to_cut(part)
            above = stream.forward(step, number, hidden, part.lengths)
            logits, to_top = self._from_cut(above, part)
            part_loss, _, gradient = cross_entropy(logits, part.labels, len(rows))
            with self._timing("top"):
                by_above = to_top(gradient)[part.mask]
            by_hidden = stream.backward(step, number, by_above, apply=number == len(parts) - 1)
            with self._timing("bottom"):
                to_bottom(unpacked(by_hidden, part))
            loss += part_loss
        return loss

    def _push(self, header: adapter_pb2.PulledHeader, session_id: str, report: adapter_pb2.ClientReport) -> None:
        pushed = adapter_pb2.AdapterHeader(
            run_id=self._run_id,
            node_id=self._cloud.name,
            version=header.version,
            edge_round=header.edge_round,
            session_id=session_id,
            rows=len(self._rows),
            reports=[report],
        )
        peers.push(self._adapters, pushed, self._model.adapter)
        self._say(f"version {header.version}, edge round {header.edge_round}: loss {report.loss:.4f}")

    def _evaluate(self, version: int) -> None:
        """Evaluate a version on the rows kept back, through the edge, and report it to the cloud."""
        self._tell("evaluating", version=version)
        loss, hits, size = 0.0, 0, self._training["batch"]
        rows = sorted(self._kept, key=lambda row: len(row[0]))
        with peers.Stream(self._edge.Predict, split_pb2.PredictRequest, self._spec["codecs"]) as stream:
            stream.ask("open", split_pb2.PredictOpen(**self._opening(version)), "opened")
            for step, start in enumerate(range(0, len(rows), size)):
                part = batch(rows[start : start + size])
                hidden, _ = self._to_cut(part)
                logits, _ = self._from_cut(stream.forward(step, 0, hidden, part.lengths), part)
                part_loss, part_hits, _ = cross_entropy(logits, part.labels, len(rows))
                loss, hits = loss + part_loss, hits + part_hits
        found = run_pb2.Evaluation(version=version, rows=len(rows), loss=loss, accuracy=hits / len(rows))
        request = run_pb2.ReportEvaluationRequest(run_id=self._run_id, client_id=self._cloud.name, evaluation=found)
        self._cloud.runs.ReportEvaluation(request, timeout=CALL_S)
        self._say(f"version {version}: accuracy {found.accuracy:.3f}, loss {loss:.4f} on {len(rows)} rows kept back")

    def _to_cut(self, part: Batch) -> tuple[Array, Back]:
        """h1 of the real tokens, (tokens, width)."""
        with self._timing("bottom"):
            hidden, back = self._model.bottom(part.ids, part.mask, self._bottom)
            return hidden[part.mask], back

    def _from_cut(self, above: Array, part: Batch) -> tuple[Array, Back]:
        """Logits (rows, labels) of h2, (tokens, width)."""
        with self._timing("top"):
            return self._model.top(unpacked(above, part), part.mask, self._top)

    def _opening(self, version: int) -> dict[str, Any]:
        """What the openings of both kinds of stream say."""
        codecs = {tensor: wire.CODECS[self._spec["codecs"][tensor]] for tensor in ("h1", "h2", "dh2", "dh1")}
        return {
            "run_id": self._run_id,
            "client_id": self._cloud.name,
            "version": version,
            "split": self._split,
            "codecs": CodecSet(**codecs),
            "window": 1,
        }

    def _is_own(self, name: str) -> bool:
        """Whether an adapter's tensor is of our blocks or the head."""
        found = re.search(r"\.encoder\.layer\.(\d+)\.", name)
        return found is None or int(found[1]) in self._bottom or int(found[1]) in self._top

    @contextmanager
    def _timing(self, phase: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self._seconds[phase] += time.perf_counter() - begin

    def _tell(self, activity: str, **more: Any) -> None:
        """What those who watch are told with the next heartbeat."""
        self._cloud.progress = fleet_pb2.Progress(run_id=self._run_id, activity=activity, **more)


def unpacked(packed: Array, part: Batch) -> Array:
    """(tokens, width) of the real tokens as (rows, tokens, width), zero at padding."""
    whole: Array = np.zeros((*part.mask.shape, packed.shape[1]), np.float32)
    whole[part.mask] = packed
    return whole
