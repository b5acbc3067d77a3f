"""Weights are read while another thread builds a model: neither waits for the other nor changes it."""

import threading

import pytest
import torch
from accelerate import init_empty_weights
from tiny_models import FIELDS, LABELS

from elsa.model import segment as segments
from elsa.model.segment import Segment
from elsa.model.skeleton import skeleton
from elsa.model.weights import Checkpoint

TIED = [("llama", "causal-lm"), ("gpt2", "causal-lm")]


def checkpoint_of(make_folder, family, task="classification"):
    return Checkpoint.open(str(make_folder(family, task)))


@pytest.mark.parametrize("base", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize(("family", "task"), [*((family, "classification") for family in FIELDS), *TIED])
def test_what_is_loaded_while_another_builds_is_what_is_loaded_alone(make_folder, monkeypatch, family, task, base):
    checkpoint, load = checkpoint_of(make_folder, family, task), segments.load
    want = Segment.whole(checkpoint, task=task, num_labels=LABELS, base=base)

    def beside(*given):
        with init_empty_weights(include_buffers=False):  # what another thread has patched meanwhile
            load(*given)

    monkeypatch.setattr(segments, "load", beside)
    got = Segment.whole(checkpoint, task=task, num_labels=LABELS, base=base)
    ours, theirs = (dict(one.model.named_parameters(remove_duplicate=False)) for one in (got, want))
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype, name
    shared = [len({id(p) for p in named.values()}) for named in (ours, theirs)]
    assert shared[0] == shared[1], "tied weights stay tied"


def test_a_model_is_built_while_the_weights_of_another_are_read(make_folder, monkeypatch):
    checkpoint, load = checkpoint_of(make_folder, "bert"), segments.load
    begun, go_on = threading.Event(), threading.Event()

    def slow(*given):
        begun.set()
        assert go_on.wait(30)
        load(*given)

    monkeypatch.setattr(segments, "load", slow)
    made = []
    loads = threading.Thread(
        target=lambda: made.append(Segment.whole(checkpoint, task="classification", num_labels=LABELS))
    )
    loads.start()
    try:
        assert begun.wait(30)
        builds = threading.Thread(target=lambda: made.append(skeleton(checkpoint, "classification", LABELS)))
        builds.start()
        builds.join(20)
        assert not builds.is_alive(), "it waits for the weights of another"
    finally:
        go_on.set()
        loads.join(30)
    builds.join(30)
    assert len(made) == 2
