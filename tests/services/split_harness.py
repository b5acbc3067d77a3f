"""A tiny BERT, a real edge server with a run opened by hand, and the client's halves that talk to it."""

import threading
from contextlib import contextmanager

import grpc
import numpy as np
import torch
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from elsa.data.batches import batches
from elsa.data.encoding import EncodedData, EncodedRow
from elsa.errors import DrainingError
from elsa.model import adapter as adapters
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.spec import RunSpec, Split
from elsa.train.client_end import ClientEnd
from elsa.train.phases import Stopwatch
from elsa.train.session import TrunkSession
from elsa.train.step import SplitTrainer
from elsa.train.trunk import LocalTrunk
from elsa.v1 import adapter_pb2, adapter_pb2_grpc, split_pb2, split_pb2_grpc
from elsa.wire.adapter import encode_adapter
from elsa.wire.codec.registry import codec_set_from_proto, codec_set_to_proto
from elsa.wire.kept import Shelf
from elsa.wire.tensor import payload_to_proto
from services.client.trunk import TrainTrunk
from services.edge.adapter_servicer import AdapterServicer
from services.edge.idle import IdleStreams
from services.edge.run import EdgeRun, EdgeRuns
from services.edge.sessions import Sessions
from services.edge.split_servicer import SplitServicer
from services.edge.trunk import EdgeTrunk
from services.edge.worker import Worker
from services.rpc.adapters import push
from services.rpc.channel import connect
from services.rpc.server import Service, start

RUN = "tiny-1"
BLOCKS, WIDTH, WORDS = 4, 64, 40
LABELS = ("a", "b", "c")
HALF = Split(bottom=1, trunk=2, top=1)
FIELDS = {
    "vocab_size": WORDS + 5,
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}


def vocabulary():
    """The numbers of a tiny model's words: special ones first, then w0, w1, …"""
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    return {word: number for number, word in enumerate([*special, *(f"w{n}" for n in range(WORDS))])}


def save_bert(folder, tokenizer):
    """Save a random BERT for classification with a tokenizer of `vocabulary`; `folder`."""
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = BertForSequenceClassification(BertConfig(**FIELDS, num_labels=len(LABELS)))
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


def spec_of(folder, **parts):
    """A run of the tiny model; `parts` are merged into it."""
    given = {
        "name": "tiny",
        "seed": 5,
        "preset": "none",
        "model": {"source": str(folder), "max_tokens": 100},
        "data": {"name": "words", "labels": list(LABELS)},
        "lora": {"rank": 2, "alpha": 4.0},
        "training": {
            "rounds": 2,
            "edge_rounds": 2,
            "local_steps": 2,
            "batch": 8,
            "optimizer": {"learning_rate": 0.01, "weight_decay": 0.1},
        },
        "rounds": {"quorum": 1.0, "deadline_s": 60},
        "clustering": {"method": "none"},
        "plan": {"method": "given"},
    }
    for name, part in parts.items():
        given[name] = {**given[name], **part} if isinstance(given.get(name), dict) else part
    return RunSpec.model_validate(given)


def rows(count, seed, tokens=(3, 9)):
    """Encoded rows of random words, classes from their first word."""
    draw = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        words = draw.integers(5, 5 + WORDS, draw.integers(*tokens, endpoint=True)).tolist()
        made.append(EncodedRow(ids=[1, *words, 2], types=[0] * (len(words) + 2), labels=words[0] % len(LABELS)))
    return EncodedData(rows=made, pad_id=0)


def config_of(spec):
    return adapters.adapter_config(Checkpoint.open(spec.model.source), spec.lora, spec.model.task, len(LABELS))


def first_adapter(spec, seed=5):
    """A whole adapter with B away from zero, where every gradient is."""
    tensors = adapters.initial_adapter(Checkpoint.open(spec.model.source), config_of(spec), len(LABELS), seed)
    draw = np.random.default_rng(seed)
    return {
        name: draw.normal(0, 0.2, values.shape).astype(np.float32) if ".lora_B." in name else values
        for name, values in sorted(tensors.items())
    }


def client_segment(spec, split, start):
    checkpoint = Checkpoint.open(spec.model.source)
    segment = Segment.client(checkpoint, split, task=spec.model.task, num_labels=len(LABELS), seed=spec.seed)
    adapters.attach(segment, config_of(spec))
    adapters.write(segment, start)
    return segment


def whole_segment(spec, start):
    checkpoint = Checkpoint.open(spec.model.source)
    segment = Segment.whole(checkpoint, task=spec.model.task, num_labels=len(LABELS), seed=spec.seed)
    adapters.attach(segment, config_of(spec))
    adapters.write(segment, start)
    return segment


class EdgeServer:
    """What `services.edge.service` puts together, without a cloud."""

    def __init__(self, *, capacity=4, idle_timeout_s=30.0, port=0, clock=None):
        clocked = {"clock": clock} if clock else {}
        self.worker = Worker()
        self.sessions = Sessions(capacity, idle_timeout_s, **clocked)
        self.runs = EdgeRuns(self.sessions)
        self.idle = IdleStreams(idle_timeout_s, **clocked)
        services = [
            Service(
                servicer=SplitServicer(self.runs, self.worker, self.idle),
                add=split_pb2_grpc.add_SplitServiceServicer_to_server,
                descriptor=split_pb2.DESCRIPTOR.services_by_name["SplitService"],
            ),
            Service(
                servicer=AdapterServicer(self.runs, self.idle),
                add=adapter_pb2_grpc.add_AdapterServiceServicer_to_server,
                descriptor=adapter_pb2.DESCRIPTOR.services_by_name["AdapterService"],
            ),
        ]
        self.bound = start(services, host="127.0.0.1", port=port, threads=3 * capacity + 8, insecure=False)
        self.address = self.bound.address
        self.channel = connect(self.address)
        self.split = split_pb2_grpc.SplitServiceStub(self.channel)
        self.adapters = adapter_pb2_grpc.AdapterServiceStub(self.channel)

    def open_run(self, spec, start, clients, run_id=RUN, version=0, base_digest=""):
        """Serve a run in which `clients` may train from `start`."""
        checkpoint = Checkpoint.open(spec.model.source)
        trunk = self.worker.run(lambda: EdgeTrunk(spec, checkpoint, config_of(spec))).value
        run = EdgeRun(run_id, spec, trunk, self.sessions, Shelf(1 << 24, 1 << 24), base_digest)
        self.runs.add(run)
        run.rounds.admit(clients)
        self.open_round(run, version, start)
        return run

    def open_round(self, run, version, adapter):
        def work():
            run.sessions.forget_round(run.run_id)
            run.trunk.set_global(adapter)
            run.rounds.open(version, 0, adapter)

        self.worker.run(work)

    def settle(self):
        """Wait until the compute thread has done all that was queued."""
        self.worker.run(lambda: None)

    def stop(self):
        self.channel.close()
        for run_id in list(self.runs._runs):
            self.runs.remove(run_id, DrainingError("the test is over"))
        self.idle.end_all()
        self.bound.stop(2.0)
        self.worker.stop()


@contextmanager
def edge_server(**given):
    edge = EdgeServer(**given)
    try:
        yield edge
    finally:
        edge.stop()


def opening(spec, client, split=HALF, **given):
    fields = {
        "run_id": RUN,
        "client_id": client,
        "version": 0,
        "edge_round": 0,
        "split": split_pb2.Split(bottom=split.bottom, trunk=split.trunk, top=split.top),
        "codecs": codec_set_to_proto(spec.codecs, WIDTH),
        "window": spec.training.window,
        "wants_gradient": spec.lora.bottom_adapters,
    }
    return split_pb2.TrainOpen(**{**fields, **given})


def end_of(spec, split=HALF):
    """A client's end of its tensors, without rows that are kept and without turns."""
    return ClientEnd(codec_set_from_proto(codec_set_to_proto(spec.codecs, WIDTH), WIDTH), WIDTH, split)


class Trainee:
    """A client that trains through an edge, step by step."""

    def __init__(self, spec, start, data, *, client="ann", split=HALF, seed=(1,)):
        self.spec, self.client, self.split = spec, client, split
        self.segment = client_segment(spec, split, start)
        self.batches = batches(data, spec.training.batch, 1000, seed)
        self.losses = []
        self.end = end_of(spec, split)

    def connect(self, edge, stub=None, patience_s=20.0, **given):
        self.trunk = TrainTrunk(
            stub or edge.split,
            opening(self.spec, self.client, self.split, **given),
            "edge",
            end=self.end,
            watch=Stopwatch(),
            stop=threading.Event(),
            patience_s=patience_s,
        )
        self.trunk.open()
        return self._begin(self.trunk)

    def locally(self, start):
        """The same through an edge's session in this process."""
        checkpoint = Checkpoint.open(self.spec.model.source)
        blocks = self.split.trunk_blocks
        segment = Segment.edge(checkpoint, blocks, task=self.spec.model.task, num_labels=len(LABELS))
        adapters.attach(segment, config_of(self.spec), "s")
        adapters.write(segment, start, "s")
        training = self.spec.training
        self.session = TrunkSession(
            segment, adapter="s", split=self.split, optimizer=training.optimizer, window=training.window
        )
        return self._begin(LocalTrunk(self.session))

    def _begin(self, trunk):
        self.trainer = SplitTrainer(
            self.segment, trunk, split=self.split, task=self.spec.model.task, training=self.spec.training
        )
        return self

    def train(self, steps):
        for _ in range(steps):
            self.losses.append(self.trainer.train_step(next(self.batches)))
        return self

    def own(self):
        return adapters.read(self.segment, split=self.split)

    def finish(self, edge):
        """The trunk tensors that the edge has committed."""
        self.finished = self.trunk.finish(len(self.losses))
        return dict(edge.sessions.committed(self.trunk.opened.session_id).tensors)

    def push(self, edge, **given):
        return push_update(edge, self.client, self.own(), self.trunk.opened.session_id, **given)


def push_update(edge, client, tensors, session_id, version=0, edge_round=0, count=10, run_id=RUN, **report):
    said = {"client_id": client, "edge_round": edge_round, "rows": count, "loss": 1.0, **report}
    header = adapter_pb2.AdapterHeader(
        run_id=run_id,
        node_id=client,
        version=version,
        edge_round=edge_round,
        session_id=session_id,
        rows=count,
        reports=[adapter_pb2.ClientReport(**said)],
    )
    return push(edge.adapters, header, encode_adapter(tensors))


def tensor(lengths, seed=0, width=WIDTH):
    return torch.randn(sum(lengths), width, generator=torch.Generator().manual_seed(seed))


def forward(step=0, micro_batch=0, lengths=(3, 2), values=None, request=split_pb2.TrainRequest):
    """A Forward and its chunks."""
    payload, rest = payload_to_proto([tensor(lengths) if values is None else values])
    message = split_pb2.Forward(step=step, micro_batch=micro_batch, lengths=lengths, activations=payload)
    return [request(forward=message), *(request(chunk=chunk) for chunk in rest)]


def backward(step=0, micro_batch=0, lengths=(3, 2), apply=True, values=None):
    """A Backward and its chunks."""
    payload, rest = payload_to_proto([tensor(lengths, 1) if values is None else values])
    message = split_pb2.Backward(step=step, micro_batch=micro_batch, gradient=payload, apply=apply)
    return [split_pb2.TrainRequest(backward=message), *(split_pb2.TrainRequest(chunk=chunk) for chunk in rest)]


def talk(method, messages, timeout=20):
    """Send all messages and half-close: the answers, the code and the text."""
    call = method(iter(messages), timeout=timeout)
    answers = []
    try:
        answers.extend(call)
    except grpc.RpcError as error:
        return answers, error.code(), error.details()
    return answers, grpc.StatusCode.OK, ""


def assert_same(got, want, tolerance=0.0):
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=0, atol=tolerance, err_msg=name)
