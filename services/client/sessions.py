"""A client's streams to its edge at one split: a session to train in, and the two kinds of predictions."""

import threading
from typing import Any

from elsa.spec import RunSpec, Split
from elsa.train.client_end import ClientEnd
from elsa.train.ends import client_end, for_probes
from elsa.train.phases import Stopwatch
from elsa.v1 import split_pb2
from elsa.v1.split_pb2_grpc import SplitServiceStub
from elsa.wire.codec.registry import codec_set_to_proto
from services.client.predict_trunk import PredictTrunk
from services.client.protection import Protection
from services.client.trunk import TrainTrunk
from services.rpc.adapters import Pulled


class Sessions:
    """Opens streams of one client in one run.

    Args:
        name: the client's.
        width: of a hidden state.
        end: the client's end of its tensors at this split.
        stub, peer: its edge, and how to call it in errors.
        base_digest: as `RoundTrainer` has it.
    """

    def __init__(
        self,
        name: str,
        run_id: str,
        spec: RunSpec,
        split: Split,
        width: int,
        *,
        end: ClientEnd,
        protection: Protection,
        stub: SplitServiceStub,
        peer: str,
        stop: threading.Event,
        patience_s: float,
        base_digest: str = "",
    ) -> None:
        self._name = name
        self._run_id = run_id
        self._spec = spec
        self._split = split
        self._width = width
        self._end = end
        self._protection = protection
        self._stub = stub
        self._peer = peer
        self._stop = stop
        self._patience_s = patience_s
        self._base_digest = base_digest

    def training(self, pulled: Pulled, watch: Stopwatch) -> TrainTrunk:
        """A session to train from a pulled adapter, not opened yet."""
        opening = split_pb2.TrainOpen(
            run_id=self._run_id,
            client_id=self._name,
            version=pulled.version,
            edge_round=pulled.edge_round,
            split=self._split_message,
            codecs=codec_set_to_proto(self._spec.codecs, self._width),
            window=self._spec.training.window,
            wants_gradient=self._spec.lora.bottom_adapters,
            base_digest=self._base_digest,
        )
        return TrainTrunk(
            self._stub,
            opening,
            self._peer,
            end=self._end,
            turns=self._protection.new_turns(),
            keyed=self._protection.keyed,
            watch=watch,
            stop=self._stop,
            patience_s=self._patience_s,
            timeout_s=self._spec.rounds.deadline_s,
        )

    def predicting(self, pulled: Pulled, cluster: int | None = None) -> PredictTrunk:
        """The edge's trunk of a version, the run's or a cluster's, forward only."""
        codecs = codec_set_to_proto(self._spec.codecs, self._width)
        return PredictTrunk(
            self._stub,
            split_pb2.PredictOpen(codecs=codecs, cluster=cluster, **self._prediction(pulled)),
            self._peer,
            end=self._end,
            turns=self._protection.turns(),
            keyed=self._protection.keyed,
            timeout_s=self._spec.rounds.deadline_s,
        )

    def answering(self, pulled: Pulled, session_id: str) -> PredictTrunk:
        """The edge's trunk of a session of ours that trains, for probes."""
        spec = for_probes(self._spec)
        codecs = codec_set_to_proto(spec.codecs, self._width)
        return PredictTrunk(
            self._stub,
            split_pb2.PredictOpen(codecs=codecs, session_id=session_id, **self._prediction(pulled)),
            self._peer,
            end=client_end(spec, self._width, self._split),
            timeout_s=self._spec.rounds.deadline_s,
        )

    def _prediction(self, pulled: Pulled) -> dict[str, Any]:
        """What every prediction says of itself."""
        return {
            "run_id": self._run_id,
            "client_id": self._name,
            "version": pulled.version,
            "split": self._split_message,
            "window": self._spec.training.window,
            "base_digest": self._base_digest,
        }

    @property
    def _split_message(self) -> split_pb2.Split:
        return split_pb2.Split(bottom=self._split.bottom, trunk=self._split.trunk, top=self._split.top)
