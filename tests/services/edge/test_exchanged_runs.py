"""Whole runs of a real cloud, edges and clients behind codecs, secret turns and kept rows."""

import shutil

import pytest
from fleet_harness import system, write_rows
from split_harness import WORDS, spec_of

from elsa.v1 import fleet_pb2

CLIENTS = {"fleet": {"min_clients": 2, "min_edges": 1, "enroll_timeout_s": 60}}
TRAINING = {"rounds": 2, "edge_rounds": 2, "local_steps": 4, "batch": 8, "micro_batches": 2, "window": 2}


@pytest.fixture(scope="module")
def tiny_llama(tiny_bert, tmp_path_factory):
    """The folder of a random Llama of four blocks with the tiny BERT's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny-llama")
    for path in tiny_bert.glob("tokenizer*"):
        shutil.copy(path, folder)
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        config = LlamaConfig(vocab_size=WORDS + 5, num_key_value_heads=1, max_position_embeddings=128, **sizes, **ids)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def completed(tmp_path, spec):
    """The rounds' reports of a run that completes."""
    with system(tmp_path) as whole:
        whole.edge("edge-1")
        for name, seed in (("ann", 1), ("bob", 2)):
            whole.client(name, write_rows(tmp_path / f"{name}.jsonl", 30, seed))
        run_id = whole.submit(spec)
        events = list(whole.events(run_id))
        run = whole.get(run_id)
        assert run.state == fleet_pb2.RUN_STATE_COMPLETED, run.reason
        assert "adapter_model.safetensors" in "".join(whole.export(run_id))
        return events


@pytest.mark.parametrize("preset", ["default", "thrifty"])
def test_a_causal_run_of_different_splits_completes(tiny_llama, tmp_path, preset):
    spec = spec_of(
        tiny_llama,
        preset=preset,
        model={"task": "causal-lm"},
        data={"labels": []},
        splits={"bob": {"bottom": 2, "top": 1}},
        training=TRAINING,
        **CLIENTS,
    )
    completed(tmp_path, spec)


@pytest.mark.parametrize("renew", ["run", "round", "step"])
def test_a_run_with_a_keyed_edge_completes(tiny_bert, tmp_path, renew):
    ssop = {"rank": 4, "edge": "keyed", "renew": renew}
    completed(tmp_path, spec_of(tiny_bert, preset="default", privacy={"ssop": ssop}, training=TRAINING, **CLIENTS))


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
def test_a_run_with_reuse_completes_with_different_splits(tiny_bert, tmp_path, trained):
    spec = spec_of(
        tiny_bert,
        preset="default",
        reuse={"enabled": True},
        lora={"bottom_adapters": trained},
        splits={"bob": {"bottom": 2, "top": 1}},
        training=TRAINING,
        **CLIENTS,
    )
    completed(tmp_path, spec)
