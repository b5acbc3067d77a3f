"""Cloud, edges and clients together compute the federated procedure that the design describes, and nothing else."""

import zlib

import numpy as np
import pytest
import torch
from fleet_harness import system, write_rows
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load
from split_harness import LABELS, config_of, spec_of
from tiny_models import DEPRECATED
from transformers import AutoModelForSequenceClassification

from elsa.data.batches import batches
from elsa.model.adapter import initial_adapter
from elsa.model.weights import Checkpoint
from elsa.v1 import fleet_pb2
from services.client.site import load as load_site

EDGES = ("edge-1", "edge-2")
ROWS = {"ann": 30, "bob": 21, "cat": 12, "dan": 9}


def trained_by_hand(spec, start, data, seed):
    """Plain Hugging Face and PEFT, trained whole on the batches that the client draws; the adapter afterwards."""
    config = config_of(spec)
    base = AutoModelForSequenceClassification.from_pretrained(spec.model.source, num_labels=len(LABELS))
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=list(config.targets),
        modules_to_save=list(config.modules_to_save),
        task_type="SEQ_CLS",
    )
    model = get_peft_model(base, lora).eval()
    trained = {
        name.replace(".modules_to_save", "").replace(".default", ""): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert trained.keys() == start.keys()
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(torch.from_numpy(np.array(start[name])))
    how = spec.training.optimizer
    optimizer = torch.optim.AdamW(
        trained.values(), lr=how.learning_rate, betas=how.betas, eps=how.epsilon, weight_decay=how.weight_decay
    )
    for batch in batches(data, spec.training.batch, spec.training.local_steps, seed):
        optimizer.zero_grad()
        model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            token_type_ids=batch.token_type_ids,
            labels=batch.labels,
        ).loss.backward()
        optimizer.step()
    return {name: parameter.detach().numpy().copy() for name, parameter in trained.items()}


def mean(parts):
    """Σ wᵢ xᵢ / Σ wᵢ of (weight, adapter) pairs, tensor by tensor."""
    total = sum(weight for weight, _ in parts)
    return {
        name: (sum(weight * adapter[name].astype(np.float64) for weight, adapter in parts) / total).astype(np.float32)
        for name in parts[0][1]
    }


def federated_by_hand(spec, start, data, members):
    """All rounds of a run, as loops over whole models."""
    adapter = start
    for version in range(spec.training.rounds):
        updates = []
        for clients in members.values():
            ours = adapter
            for edge_round in range(spec.training.edge_rounds):
                parts = []
                for name in clients:
                    seed = [spec.seed, zlib.crc32(name.encode()), version, edge_round]
                    parts.append((len(data[name]), trained_by_hand(spec, ours, data[name], seed)))
                ours = mean(parts)
            updates.append((sum(len(data[name]) for name in clients), ours))
        adapter = mean(updates)
    return adapter


@pytest.mark.filterwarnings(DEPRECATED)
def test_the_hierarchy_computes_federated_averaging_of_whole_models(tiny_bert, tmp_path):
    splits = {"bob": {"bottom": 2, "top": 0}, "dan": {"bottom": 1, "top": 2}}
    # AdamW divides a gradient by its own size: without a large epsilon one near zero is decided by rounding.
    optimizer = {"learning_rate": 0.02, "weight_decay": 0.1, "epsilon": 1e-3}
    spec = spec_of(
        tiny_bert,
        splits=splits,
        training={"local_steps": 3, "micro_batches": 2, "window": 2, "optimizer": optimizer},
        fleet={"min_clients": 4, "min_edges": 2},
    )
    paths = {name: write_rows(tmp_path / f"{name}.jsonl", count, count) for name, count in ROWS.items()}
    with system(tmp_path) as whole:
        for edge in EDGES:
            whole.edge(edge, capacity=2)
        for name, path in paths.items():
            whole.client(name, path)
        run_id = whole.submit(spec)
        events = list(whole.events(run_id))
        run = whole.get(run_id)
        assert run.state == fleet_pb2.RUN_STATE_COMPLETED, run.reason
        exported = load(whole.export(run_id)["adapter_model.safetensors"])
        failures = {name: role.failure for name, role in whole.nodes.items() if role.failure}
    assert not failures

    members = {edge: [] for edge in EDGES}
    for event in events:
        if event.HasField("client_assigned"):
            members[event.client_assigned.edge_id].append(event.client_assigned.client_id)
    assert sorted(map(len, members.values())) == [2, 2]
    checkpoint = Checkpoint.open(spec.model.source)
    data = {name: load_site(spec, checkpoint, {"words": str(path)}, {}).train for name, path in paths.items()}
    start = initial_adapter(checkpoint, config_of(spec), len(LABELS), spec.seed)
    want = federated_by_hand(spec, start, data, members)

    assert exported.keys() == want.keys()
    for name, values in want.items():
        np.testing.assert_allclose(exported[name], values, rtol=0, atol=1e-5, err_msg=name)
        assert np.abs(values - start[name]).max() > 1e-3, f"{name} did not move"

    closed = [event.round_closed for event in events if event.HasField("round_closed")]
    assert [(event.version, list(event.edge_ids)) for event in closed] == [(1, list(EDGES)), (2, list(EDGES))]
    reports = [report for event in events for report in event.update_received.reports]
    assert sorted((report.client_id, report.edge_round) for report in reports) == sorted(
        (name, edge_round) for name in ROWS for edge_round in (0, 1) for _ in range(2)
    )
    assert all(report.steps == 3 and report.rows == len(data[report.client_id]) for report in reports)
    assert [evaluation.clients for evaluation in run.evaluations] == [4, 4, 4]
