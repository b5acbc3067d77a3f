"""An adapter that fits turned states alone is not predicted with."""

import pytest

from elsa.model import adapter as adapters
from elsa.model.export import export
from elsa.model.weights import Checkpoint
from elsa.spec import LoraSpec


@pytest.mark.parametrize("turned", ["run", "client"])
def test_the_adapter_of_a_blind_run_is_refused(refused, tmp_path, tiny_bert, turned):
    checkpoint = Checkpoint.open(str(tiny_bert))
    config = adapters.adapter_config(checkpoint, LoraSpec(rank=2), "classification", 3)
    tensors = adapters.initial_adapter(checkpoint, config, 3, 3)
    export(tmp_path / "adapter", tensors, config, labels=("a", "b", "c"), max_tokens=8, turned=turned)
    assert "secret keys" in refused("predict", tmp_path / "adapter", "w1")
