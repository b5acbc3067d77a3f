"""A client without a model whose share changes: its edge sends what the new blocks need and nothing twice."""

from types import SimpleNamespace

import pytest
import torch
from base_harness import OWN, Tap
from split_harness import HALF, LABELS, assert_same, edge_server, first_adapter, rows, spec_of
from test_client_shares import MORE, PLANNED, Carrier, whole_adapter

from elsa.errors import CheckpointError, ChecksumError, InputError, RoundGivenUpError
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from services.client.site import SiteData

TWO = (0, 1, 3)


@pytest.fixture
def spec(tiny_bert):
    return spec_of(tiny_bert, **PLANNED)


@pytest.fixture
def edge(spec):
    with edge_server() as edge:
        edge.open_run(spec, first_adapter(spec), ["ann"])
        yield edge


def test_other_blocks_travel_without_what_is_there(spec, edge, tiny_bert, tmp_path, new_device):
    tap = Tap(edge.split)
    device = new_device(tmp_path, tap)
    first = device.fetched(spec)
    before = tap.data_bytes
    assert device.base.complete(TWO, tap, "edge one")
    now = device.base.checkpoint
    added = {name: entry for name, entry in now.entries.items() if name not in first.entries}
    assert added and all(name.startswith("bert.encoder.layer.1.") for name in added)
    known = {entry.sha256 for entry in first.entries.values()}
    news = {entry.sha256: entry.size_bytes for entry in added.values() if entry.sha256 not in known}
    assert tap.data_bytes - before == sum(news.values())
    got, want = (
        Segment.client(checkpoint, MORE, task="classification", num_labels=len(LABELS)).model.state_dict()
        for checkpoint in (now, Checkpoint.open(str(tiny_bert)))
    )
    assert got.keys() == want.keys() and all(torch.equal(got[name], want[name]) for name in want)
    before = tap.data_bytes
    assert device.base.complete(OWN, tap, "edge one") and device.base.complete(TWO, tap, "edge one")
    assert tap.data_bytes == before, "blocks that were there before came again"


def test_blocks_of_another_base_are_refused_and_those_that_are_there_stay(spec, edge, tmp_path, new_device):
    def other_trunk(message):
        if message.HasField("manifest"):
            message.manifest.trunk_sha256 = "0" * 64

    def other_head(message):
        for tensor in message.manifest.tensors:
            if tensor.name == "classifier.bias":
                tensor.sha256 = "0" * 64

    device = new_device(tmp_path, edge.split)
    first = device.fetched(spec)
    for change in (other_trunk, other_head):
        with pytest.raises(CheckpointError, match="another base model"):
            device.base.complete(TWO, Tap(edge.split, change=change), "edge two")
        assert device.base.checkpoint is first and device.base.complete(OWN, None, "")


def carrier_of(spec, edge, device):
    data = SiteData(train=rows(20, 1), heldout=rows(6, 2), report="")
    return Carrier(spec, data, edge, base=device.base)


def test_a_share_for_which_the_cache_has_no_room_keeps_the_one_before(
    spec, edge, tmp_path, monkeypatch, caplog, new_device
):
    device = new_device(tmp_path, edge.split)
    device.open(spec)
    carrier = carrier_of(spec, edge, device).tell(HALF)
    first = carrier.now()
    held = sum(file.stat().st_size for file in tmp_path.glob("contents/*/*"))
    monkeypatch.setattr(device.base._lease.cache, "_most_bytes", held)
    assert carrier.tell(MORE, 9).now() is first and carrier.now() is first
    assert (first.split, first.local_steps) == (HALF, 9)
    assert "keeps 1/2/1" in caplog.text and "raise max_cache_mib" in caplog.text
    assert carrier.holding._segment.owned == set(OWN)
    monkeypatch.setattr(device.base._lease.cache, "_most_bytes", 1 << 30)
    assert carrier.now().split == MORE, "tried again, without another word"


def test_a_first_share_for_which_the_cache_has_no_room_is_an_error(spec, edge, tmp_path, monkeypatch, new_device):
    device = new_device(tmp_path, edge.split)
    device.open(spec)
    held = sum(entry.size_bytes for entry in device.base.checkpoint.entries.values())
    monkeypatch.setattr(device.base._lease.cache, "_most_bytes", held)
    with pytest.raises(InputError, match="raise max_cache_mib"):
        carrier_of(spec, edge, device).tell(MORE).now()


def test_blocks_that_come_while_a_run_goes_on_train_as_those_of_the_machine(spec, tmp_path, new_device):
    start, adapters = first_adapter(spec), []
    for local in (True, False):
        with edge_server() as edge:
            run = edge.open_run(spec, start, ["ann"])
            device = new_device(tmp_path, edge.split)
            device.open(spec)
            data = SiteData(train=rows(20, 1), heldout=rows(6, 2), report="")
            carrier = Carrier(spec, data, edge, base=None if local else device.base)
            between, _ = whole_adapter(edge, carrier.tell(HALF), start)
            run.rounds.open(0, 1, between)
            adapters.append(whole_adapter(edge, carrier.tell(MORE), between, 1)[0])
    assert_same(*adapters)


def test_a_stay_that_ends_while_weights_come_ends_the_wait(spec, edge):
    carrier = Carrier(spec, None, edge, base=SimpleNamespace(complete=lambda *_: False))
    carrier.trainers._stay.over.set()
    with pytest.raises(RoundGivenUpError, match="was left before it had sent all"):
        carrier.tell(HALF).now()


def test_blocks_that_changed_in_the_cache_come_again(spec, edge, tmp_path, new_device):
    device = new_device(tmp_path, edge.split)
    device.open(spec)
    carrier = carrier_of(spec, edge, device).tell(HALF)
    carrier.holding.receive(HALF, edge.split, "edge one")
    entries = device.base.checkpoint.entries
    content = device.base.checkpoint.files["bert.encoder.layer.0.output.dense.weight"]
    content.write_bytes(bytes(len(content.read_bytes())))
    with pytest.raises(ChecksumError, match="had changed and was removed"):
        carrier.now()
    assert not content.exists()
    assert carrier.now().split == HALF and content.exists() and device.base.checkpoint.entries == entries
