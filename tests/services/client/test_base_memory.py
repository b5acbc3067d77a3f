"""How much memory it takes to receive, send and load weights; sizes of processes are Linux's."""

import tracemalloc

import pytest
import torch
from base_harness import devices
from peak_memory import MIB, Peak, needs_figures
from split_harness import HALF, edge_server
from transformers import BertConfig, BertForSequenceClassification

from elsa.model.adapter import adapter_config, initial_adapter
from elsa.model.raw import raw_tensors
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.spec import RunSpec
from services.edge.sending import chunks

SLACK = 8 * MIB
TASK = {"task": "classification", "num_labels": 2}
pytestmark = needs_figures


@pytest.fixture(scope="module")
def large(tmp_path_factory, tiny_bert):
    """A model of 4 blocks of 12 MiB and embeddings of 48 MiB, and a run of it."""
    folder = tmp_path_factory.mktemp("large")
    sizes = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 5632}
    config = BertConfig(vocab_size=48 * 1024, max_position_embeddings=64, num_labels=2, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)
    for file in tiny_bert.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    raw = {"name": "large", "model": {"source": str(folder), "max_tokens": 32}, "data": {"labels": ["a", "b"]}}
    raw["plan"] = {"method": "given"}
    return RunSpec.model_validate(raw)


def start_of(spec):
    checkpoint = Checkpoint.open(spec.model.source)
    config = adapter_config(checkpoint, spec.lora, "classification", 2)
    return initial_adapter(checkpoint, config, 2, 1)


def loaded(spec, cache):
    """The peak of loading what an edge sent, what is owned then, and the largest tensor sent."""
    with devices() as make:
        with edge_server() as edge:
            edge.open_run(spec, start_of(spec), ["ann"])
            checkpoint = make(cache, edge.split).fetched(spec)
        Segment.client(checkpoint, HALF, **TASK)  # what torch and transformers keep of a first model is not weights'
        with Peak() as peak:
            segment = Segment.client(checkpoint, HALF, **TASK)
    owned = sum(p.numel() * p.itemsize for p in segment.model.parameters())
    return peak.bytes, owned, max(entry.size_bytes for entry in checkpoint.entries.values())


def received(spec, cache):
    """The peak of receiving what an edge sends."""
    with edge_server() as edge, devices() as make:
        edge.open_run(spec, start_of(spec), ["ann"])
        device = make(cache, edge.split)
        device.open(spec)  # the edge has digested all
        with Peak() as peak:
            device.complete()
        return peak.bytes


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_loading_takes_what_is_owned_and_one_tensor(large, tmp_path, apart, stored):
    spec = large
    if stored is not torch.float32:
        folder = tmp_path / "half"
        source = Checkpoint.open(large.model.source)
        BertForSequenceClassification.from_pretrained(source.folder, dtype=stored).save_pretrained(folder)
        for file in source.beside():
            if file.name != "config.json":
                (folder / file.name).write_bytes(file.read_bytes())
        spec = large.model_copy(update={"model": large.model.model_copy(update={"source": str(folder)})})
    peak, owned, one = apart(loaded, spec, tmp_path / "cache")
    assert owned > 70 * MIB
    assert peak > owned - SLACK, "not measured"
    assert peak <= owned + one + SLACK, f"{peak / MIB:.1f} of {owned / MIB:.1f} + {one / MIB:.1f} MiB"


def test_receiving_takes_no_memory_to_speak_of(large, tmp_path, apart):
    peak = apart(received, large, tmp_path / "cache")
    sizes = [file.stat().st_size for file in (tmp_path / "cache").glob("contents/*/*")]
    assert sum(sizes) > 70 * MIB
    assert peak < max(sizes), "less than one tensor, though both ends and gRPC's buffers are in the process"


def test_sending_a_tensor_holds_a_piece_of_it(large):
    (tensor,) = raw_tensors(Checkpoint.open(large.model.source), ["bert.embeddings.word_embeddings.weight"])
    tracemalloc.start()
    try:
        sent = sum(len(chunk.data) for chunk in chunks(tensor.place, 0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sent == tensor.place.size_bytes > 40 * MIB
    assert peak < 4 * MIB
