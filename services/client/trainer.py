"""A client's model in one run: evaluates a global adapter and trains a round, both through its edge."""

import hashlib
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from elsa.data.batches import batches, sequential
from elsa.data.probes import public_probes
from elsa.model import adapter as adapters
from elsa.model.architecture import bottom_names
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.privacy.keys import Key
from elsa.spec import RunSpec, Split
from elsa.train.answering import Answers, answers
from elsa.train.ends import client_end
from elsa.train.loss import Score
from elsa.train.phases import Stopwatch
from elsa.train.probing import ROWS, probe_activations, probe_batches
from elsa.train.step import SplitTrainer, evaluate
from elsa.v1 import adapter_pb2, fleet_pb2, split_pb2
from elsa.v1.split_pb2_grpc import SplitServiceStub
from elsa.wire.adapter import decode_adapter, encode_adapter
from services.client.protection import Protection
from services.client.sessions import Sessions
from services.client.site import SiteData
from services.client.trunk import TrainTrunk
from services.rpc.adapters import Pulled
from services.rpc.pace import Pace, PacedWatch

UNPACED = Pace()


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a round of local training made: the session at the edge, our own tensors, and the report."""

    session_id: str
    data: bytes
    report: adapter_pb2.ClientReport
    answers: Answers | None = None
    """To the probes, if any were asked."""


class RoundTrainer:
    """A client's segment and rows at one split and with one edge, ready to train and evaluate.

    Args:
        name: the client's name.
        segment: with an adapter at the values that all clients begin from, and the split's blocks at least.
        checkpoint: for its tokenizer.
        shared: the key and basis of SS-OP that the run's clients share, if they do.
        stub, peer: its edge, and how to call it in errors.
        report: tells those who watch how far this client is.
        pace: how many times slower it computes, for experiments.
        base_digest: names the frozen base, for the edge to compare; empty where that cannot be told.

    Attributes:
        split: what it trains at.
        local_steps: of a round; may be set between rounds.
    """

    def __init__(
        self,
        name: str,
        run_id: str,
        spec: RunSpec,
        segment: Segment,
        split: Split,
        checkpoint: Checkpoint,
        data: SiteData,
        *,
        shared: tuple[Key, torch.Tensor] | None = None,
        stub: SplitServiceStub,
        peer: str,
        stop: threading.Event,
        patience_s: float,
        report: Callable[[fleet_pb2.Progress], None],
        pace: Pace = UNPACED,
        base_digest: str = "",
    ) -> None:
        self._name = name
        self._run_id = run_id
        self._spec = spec
        self._segment = segment
        self.split = split
        self.local_steps = spec.training.local_steps
        self._checkpoint = checkpoint
        self._data = data
        self._report = report
        self._pace = pace
        probes = probe_activations(segment, checkpoint, split, public_probes(), spec.model.max_tokens)
        self._end = client_end(spec, segment.width, split, probes)
        self._protection = Protection(spec, segment, probes, shared, checkpoint.tokenizer().all_special_ids)
        self._sessions = Sessions(
            name,
            run_id,
            spec,
            split,
            segment.width,
            end=self._end,
            protection=self._protection,
            stub=stub,
            peer=peer,
            stop=stop,
            patience_s=patience_s,
            base_digest=base_digest,
        )
        self._bottom = b""

    @property
    def heldout_rows(self) -> int:
        """Rows that `evaluate` runs over."""
        return len(self._data.heldout)

    def evaluate(self, pulled: Pulled, cluster: int | None = None) -> Score:
        """Loss and hits on the rows kept back of a version, the run's or that of our `cluster`.

        Raises StaleRoundError if the edge is past it.
        """
        adapters.write(self._segment, decode_adapter(pulled.data))
        self._tell(pulled, "evaluating" if cluster is None else "evaluating its cluster's")
        trunk = self._sessions.predicting(pulled, cluster)
        try:
            return evaluate(
                self._segment,
                trunk,
                sequential(self._data.heldout.by_length(), self._rows),
                split=self.split,
                task=self._spec.model.task,
                window=self._spec.training.window,
                blur=self._protection.blur,
                watch=self._watch(pulled),
            )
        finally:
            trunk.close()

    def warm_up(self, pulled: Pulled, probes: Sequence[str]) -> Answers:
        """What the model answers to `probes` after the warm-up's steps from a pulled adapter; nothing of it is kept.

        Raises StaleRoundError if the edge is past its round.
        """
        self._write(decode_adapter(pulled.data))
        watch, clustering = self._watch(pulled), self._spec.clustering
        session = self._sessions.training(pulled, watch)
        try:
            session.open()
            self._steps(session, pulled, watch, clustering.warmup_steps, "warming up")
            return self._answers(pulled, session.opened.session_id, probes)
        finally:
            session.abandon()

    def _answers(self, pulled: Pulled, session_id: str, probes: Sequence[str]) -> Answers:
        """What the model of a session that trains answers."""
        self._tell(pulled, "answering probes")
        model = self._spec.model
        trunk = self._sessions.answering(pulled, session_id)
        try:
            return answers(
                self._segment,
                trunk,
                probe_batches(self._checkpoint, probes, model.max_tokens, min(self._rows, ROWS)),
                split=self.split,
                task=model.task,
                pooling=self._spec.clustering.probes.pooling,
            )
        finally:
            trunk.close()

    def train(self, pulled: Pulled, probes: Sequence[str] = ()) -> Trained:
        """Train `local_steps` steps from a pulled adapter, then answer `probes`.

        Raises StaleRoundError if the edge is past its round.
        """
        self._write(decode_adapter(pulled.data))
        watch, begin = self._watch(pulled), time.monotonic()
        trunk = self._sessions.training(pulled, watch)
        try:
            trunk.open()
            losses, tokens = self._steps(trunk, pulled, watch, self.local_steps, "training")
            said = self._answers(pulled, trunk.opened.session_id, probes) if probes else None
            finished = trunk.finish(len(losses))
        finally:
            trunk.abandon()
        report = adapter_pb2.ClientReport(
            client_id=self._name,
            edge_round=pulled.edge_round,
            rows=len(self._data.train),
            steps=finished.steps,
            loss=sum(losses) / len(losses),
            seconds=finished.seconds,
            bytes=finished.bytes,
            wall_s=time.monotonic() - begin,
            float32_bytes=tokens * self._segment.width * self._float32_bytes,
            split=split_pb2.Split(bottom=self.split.bottom, trunk=self.split.trunk, top=self.split.top),
        )
        own = encode_adapter(adapters.read(self._segment, split=self.split))
        return Trained(session_id=trunk.opened.session_id, data=own, report=report, answers=said)

    @property
    def _rows(self) -> int:
        """Rows that run at once in training, as memory was reckoned; so no more run where nothing is learned."""
        training = self._spec.training
        return -(-training.batch // training.micro_batches)

    @property
    def _float32_bytes(self) -> int:
        """Of a column of a token in h1, h2 and dL/dh2, and in dL/dh1 where the bottom has something to train."""
        return 4 * (4 if self._spec.lora.bottom_adapters else 3)

    def _watch(self, pulled: Pulled) -> Stopwatch:
        return PacedWatch(self._pace.at(pulled.version))

    def _steps(
        self, trunk: TrainTrunk, pulled: Pulled, watch: Stopwatch, steps: int, activity: str
    ) -> tuple[list[float], int]:
        """The loss of each of `steps` steps, and the real tokens of all."""
        training = self._spec.training
        trainer = SplitTrainer(
            self._segment,
            trunk,
            split=self.split,
            task=self._spec.model.task,
            training=training,
            watch=watch,
            bottom_adapters=self._spec.lora.bottom_adapters,
            blur=self._protection.blur,
            opponent=self._protection.opponent,
        )
        seed = [self._spec.seed, zlib.crc32(self._name.encode()), pulled.version, pulled.edge_round]
        losses: list[float] = []
        tokens = 0
        for batch in batches(self._data.train, training.batch, steps, seed):
            losses.append(trainer.train_step(batch))
            tokens += sum(batch.lengths)
            self._tell(pulled, activity, len(losses), steps, losses[-1])
        return losses, tokens

    def _write(self, adapter: Mapping[str, np.ndarray]) -> None:
        """Start from a pulled adapter. If it changes a bottom that we do not train, rows that are kept are void."""
        adapters.write(self._segment, adapter)
        below = bottom_names(adapter, self._segment.architecture, self.split)
        digest = hashlib.sha256(b"".join(adapter[name].tobytes() for name in sorted(below))).digest()
        if self._end.rows is not None and self._end.rows.frozen and digest != self._bottom:
            self._end.rows.forget()
        self._bottom = digest

    def _tell(self, pulled: Pulled, activity: str, step: int = 0, steps: int = 0, loss: float = 0.0) -> None:
        self._report(
            fleet_pb2.Progress(
                run_id=self._run_id,
                version=pulled.version,
                edge_round=pulled.edge_round,
                activity=activity,
                step=step,
                steps=steps,
                loss=loss,
            )
        )
