"""How much memory it takes to receive, send and load weights; sizes of processes are Linux's."""

import tracemalloc

import pytest
import torch
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


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_loading_takes_what_is_owned_and_one_tensor(large, tmp_path, new_device, stored):
    spec = large
    if stored is not torch.float32:
        folder = tmp_path / "half"
        source = Checkpoint.open(large.model.source)
        BertForSequenceClassification.from_pretrained(source.folder, dtype=stored).save_pretrained(folder)
        for file in source.beside():
            if file.name != "config.json":
                (folder / file.name).write_bytes(file.read_bytes())
        spec = large.model_copy(update={"model": large.model.model_copy(update={"source": str(folder)})})
    with edge_server() as edge:
        edge.open_run(spec, start_of(spec), ["ann"])
        checkpoint = new_device(tmp_path / "cache", edge.split).fetched(spec)
    Segment.client(checkpoint, HALF, **TASK)  # what torch and transformers keep of a first model is not the weights'
    with Peak() as peak:
        segment = Segment.client(checkpoint, HALF, **TASK)
    owned = sum(p.numel() * p.itemsize for p in segment.model.parameters())
    one = max(entry.size_bytes for entry in checkpoint.entries.values())
    assert owned > 70 * MIB
    assert peak.bytes > owned - SLACK, "not measured"
    assert peak.bytes <= owned + one + SLACK, f"{peak.bytes / MIB:.1f} of {owned / MIB:.1f} + {one / MIB:.1f} MiB"


def test_receiving_takes_no_memory_to_speak_of(large, tmp_path, new_device):
    with edge_server() as edge:
        edge.open_run(large, start_of(large), ["ann"])
        device = new_device(tmp_path / "cache", edge.split)
        device.open(large)  # the edge has digested all
        with Peak() as peak:
            device.complete()
    sizes = [file.stat().st_size for file in (tmp_path / "cache").glob("contents/*/*")]
    assert sum(sizes) > 70 * MIB
    assert peak.bytes < max(sizes), "less than one tensor, though both ends and gRPC's buffers are in this process"


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
