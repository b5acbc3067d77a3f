"""A client that has no model: what its edge sends it, once, whole and no more than it needs."""

import errno
import hashlib
import os
import shutil
import threading
import zlib
from pathlib import Path

import pytest
import torch
from base_harness import OWN, Tap
from split_harness import HALF, LABELS, edge_server, first_adapter, spec_of

from elsa.errors import (
    CheckpointError,
    ChecksumError,
    ElsaError,
    InputError,
    MalformedError,
    RoundGivenUpError,
    UnreachableError,
)
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from services.client import fetching, lease
from services.client.cache import Cache
from services.client.lease import Lease


@pytest.fixture
def spec(tiny_bert):
    return spec_of(tiny_bert)


@pytest.fixture
def edge(spec):
    with edge_server() as edge:
        edge.open_run(spec, first_adapter(spec), ["ann", "bob"])
        yield edge


def segment(checkpoint):
    return Segment.client(checkpoint, HALF, task="classification", num_labels=len(LABELS))


def assert_same_segment(got, tiny_bert):
    want = segment(Checkpoint.open(str(tiny_bert))).model.state_dict()
    assert got.model.state_dict().keys() == want.keys()
    for name, values in got.model.state_dict().items():
        assert torch.equal(values, want[name]), name


def needed_bytes(checkpoint):
    return sum({e.sha256: e.size_bytes for e in checkpoint.entries.values()}.values())


def beside_bytes(checkpoint):
    return sum(file.stat().st_size for file in checkpoint.beside())


def test_exactly_the_tensors_of_the_owned_segment_travel_once(spec, edge, tiny_bert, tmp_path, new_device):
    tap = Tap(edge.split)
    device = new_device(tmp_path / "cache", tap)
    checkpoint = device.open(spec)
    assert tap.data_bytes == beside_bytes(checkpoint), "tensors travelled before the client was a member"
    device.complete()
    own = segment(checkpoint)
    assert checkpoint.entries.keys() == dict(own.model.named_parameters()).keys()
    assert {e.sha256 for e in checkpoint.entries.values()} <= {digest for digest, *_ in tap.sent}
    assert tap.data_bytes == needed_bytes(checkpoint) + beside_bytes(checkpoint)
    assert_same_segment(own, tiny_bert)


def test_the_folder_is_the_models_without_its_weights(spec, edge, tiny_bert, tmp_path, new_device):
    checkpoint = new_device(tmp_path / "cache", edge.split).open(spec)
    names = {"config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {file.name for file in checkpoint.folder.iterdir()} == names
    for name in names:
        assert (checkpoint.folder / name).read_bytes() == (tiny_bert / name).read_bytes()
    assert checkpoint.tokenizer()("w3 w1")["input_ids"] == [1, 8, 6, 2]


def test_a_stream_that_breaks_after_any_message_goes_on_and_sends_no_byte_twice(
    spec, edge, tiny_bert, tmp_path, monkeypatch, new_device
):
    monkeypatch.setattr("services.edge.sending.CHUNK_BYTES", 4099)
    whole = new_device(tmp_path / "whole", edge.split).fetched(spec)
    size = needed_bytes(whole) + beside_bytes(whole)
    monkeypatch.setattr("services.client.patience.FIRST_PAUSE_S", 0.01)
    at_every_chunk = [3] * 500  # of each stream the manifest, a header and a chunk
    once = [[count] for count in (*range(1, 12), 25, 50)]
    for number, breaks in enumerate([at_every_chunk, *once, [1, 2, 3, 5, 7], [4] * 500]):
        cache = tmp_path / str(number)
        tap = Tap(edge.split, breaks=breaks)
        device = new_device(cache, tap)
        checkpoint = device.fetched(spec)
        assert tap.data_bytes == size, breaks
        assert len(breaks) < 500 or len(tap.asked) > len(tap.sent) / 2 > 20
        assert len(set(tap.sent)) == len(tap.sent), "a piece came twice"
        assert {f.name: f.read_bytes() for f in cache.glob("contents/*/*")} == {
            f.name: f.read_bytes() for f in (tmp_path / "whole").glob("contents/*/*")
        }
        assert not list(cache.glob("partial/*"))
        assert_same_segment(segment(checkpoint), tiny_bert)


def test_another_process_goes_on_where_one_was_killed(spec, edge, tmp_path, monkeypatch, new_device):
    monkeypatch.setattr("services.edge.sending.CHUNK_BYTES", 4099)
    first = Tap(edge.split)
    device = new_device(tmp_path / "cache", first)
    checkpoint = device.open(spec)
    first._breaks = [9]
    size = needed_bytes(checkpoint) + beside_bytes(checkpoint)
    assert not device.base.complete(OWN, first, "edge one")
    assert list((tmp_path / "cache").glob("partial/*"))
    device.base.close()  # its lock goes, as when a process ends
    second = Tap(edge.split)
    new_device(tmp_path / "cache", second).fetched(spec)
    assert first.data_bytes + second.data_bytes == size


def test_a_cache_that_another_run_has_filled_is_reused(spec, edge, tiny_bert, tmp_path, new_device):
    edge.open_run(spec, first_adapter(spec), ["ann"], run_id="other")
    new_device(tmp_path, edge.split, run_id="other").fetched(spec)
    tap = Tap(edge.split)
    checkpoint = new_device(tmp_path, tap).fetched(spec)
    assert tap.data_bytes == 0 and not any(request.wanted for request in tap.asked)
    assert_same_segment(segment(checkpoint), tiny_bert)


def flip(message):
    """Alter a byte of a chunk, as a bad memory would: the checksum of the piece fits."""
    if message.HasField("chunk") and message.chunk.data:
        data = bytearray(message.chunk.data)
        data[0] ^= 1
        message.chunk.data, message.chunk.crc32 = bytes(data), zlib.crc32(bytes(data))


def spoil(message):
    """Alter a byte on its way."""
    if message.HasField("chunk") and message.chunk.data:
        message.chunk.data = message.chunk.data[:-1] + bytes([message.chunk.data[-1] ^ 1])


@pytest.mark.parametrize("alter", [flip, spoil])
def test_altered_bytes_are_refused_and_come_again(spec, edge, tiny_bert, tmp_path, alter, new_device):
    device = new_device(tmp_path, edge.split)
    checkpoint = device.open(spec)
    device.stub = Tap(edge.split, change=alter)
    with pytest.raises(ChecksumError):
        device.base.complete(OWN, device.stub, "edge one")
    assert len(list(tmp_path.glob("contents/*/*"))) == len(checkpoint.beside())
    device.stub = edge.split
    device.complete()
    assert_same_segment(segment(checkpoint), tiny_bert)


def test_what_has_changed_on_the_disk_is_refused_and_fetched_again(spec, edge, tiny_bert, tmp_path, new_device):
    device = new_device(tmp_path, edge.split)
    checkpoint = device.fetched(spec)
    victim = checkpoint.entries["bert.encoder.layer.0.output.dense.weight"]
    place = checkpoint.files[victim.name]
    place.write_bytes(bytes(victim.size_bytes))
    with pytest.raises(ChecksumError, match=r"output\.dense\.weight"):
        segment(checkpoint)
    device.base.close()
    tap = Tap(edge.split)
    again = new_device(tmp_path, tap).fetched(spec)
    assert tap.data_bytes == victim.size_bytes
    assert_same_segment(segment(again), tiny_bert)


def test_a_place_in_the_manifest_that_is_no_name_is_refused(spec, edge, tmp_path, new_device):
    for bad in ("../config.json", "a/b", "/etc/passwd", "..", "tokenizer..json", "tokenizer/x", "", "run.py"):

        def change(message, bad=bad):
            if message.HasField("manifest"):
                message.manifest.files[0].name = bad

        device = new_device(tmp_path / "cache", Tap(edge.split, change=change))
        with pytest.raises(MalformedError, match=r"files\[0\]\.name"):
            device.open(spec)
        device.base.close()
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file.parent.name != "cache"]


def test_an_edge_with_another_base_is_refused(spec, edge, tiny_bert, tmp_path, new_device):
    def other_trunk(message):
        if message.HasField("manifest"):
            message.manifest.trunk_sha256 = "0" * 64

    device = new_device(tmp_path, edge.split)
    device.open(spec)
    device.stub = Tap(edge.split, change=other_trunk)
    with pytest.raises(CheckpointError, match="another base model"):
        device.complete()


def test_headers_and_chunks_out_of_place_are_refused(spec, edge, tmp_path, new_device):
    def wrong_offset(message):
        if message.HasField("content"):
            message.content.offset += 1

    def no_header(message):
        if message.HasField("content"):
            message.chunk.SetInParent()

    for change in (wrong_offset, no_header):
        device = new_device(tmp_path, Tap(edge.split, change=change))
        with pytest.raises(MalformedError, match=r"FetchBlocksResponse\.content"):
            device.open(spec)
        device.base.close()


def test_a_cache_that_cannot_be_written_is_a_one_line_error(spec, edge, tmp_path, new_device):
    (tmp_path / "file").write_text("")
    device = new_device(tmp_path / "file" / "cache", edge.split)
    with pytest.raises(InputError, match=r"cannot be used \(.*\); set cache to a folder") as caught:
        device.open(spec)
    assert "\n" not in str(caught.value)


def test_a_disk_that_is_full_is_a_one_line_error(spec, edge, tmp_path, monkeypatch, new_device):
    device = new_device(tmp_path / "cache", edge.split)
    checkpoint = device.open(spec)
    digest = checkpoint.entries["bert.embeddings.word_embeddings.weight"].sha256
    (tmp_path / "cache" / "partial" / digest).symlink_to("/dev/full")
    with pytest.raises(InputError, match=f"{os.strerror(errno.ENOSPC)}.*free some space") as caught:
        device.complete()
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(lease.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(InputError, match=r"needs 0\.\d MiB and its disk has 0\.0 MiB free"):
        new_device(tmp_path / "new", edge.split).open(spec)


def test_weights_larger_than_the_cache_are_refused_before_the_client_joins(
    spec, edge, tmp_path, monkeypatch, new_device
):
    monkeypatch.setattr("services.client.base.MIB", 1 << 10)
    device = new_device(tmp_path, edge.split, max_cache_mib=20)
    with pytest.raises(InputError, match=r"may hold 0\.0 MiB.*use is 0\.\d MiB; raise max_cache_mib"):
        device.open(spec)


def filled(cache, *contents):
    """Contents of 1000 bytes put in a cache, oldest first: their digests."""
    digests = []
    for age, content in enumerate(contents):
        data = content.encode() * 1000
        digest = hashlib.sha256(data).hexdigest()
        cache.content(digest).parent.mkdir(exist_ok=True)
        cache.content(digest).write_bytes(data)
        os.utime(cache.content(digest), (age, age))
        digests.append(digest)
    return digests


def test_the_least_recently_used_goes_and_never_what_is_held(tmp_path):
    cache = Cache(tmp_path, 3500)
    a, b, c = filled(cache, "a", "b", "c")
    first, second = Lease(cache), Lease(Cache(tmp_path, 3500))
    first.hold({a: 1000})  # of all the oldest, but in use
    second.hold({"0" * 64: 1000})
    assert [cache.content(digest).exists() for digest in (a, b, c)] == [True, False, True]
    with pytest.raises(InputError, match="raise max_cache_mib"):
        second.hold({"0" * 64: 2600})
    assert cache.content(a).exists()
    first.close()
    second.hold({"0" * 64: 2600})
    assert not cache.content(a).exists() and not cache.content(c).exists()
    second.close()


def test_a_folder_holds_the_files_of_the_newest_description_alone(tmp_path):
    cache = Cache(tmp_path, 3000)
    a, b = filled(cache, "a", "b")
    held = Lease(cache)
    held.hold({a: 1000, b: 1000})
    held.folder_of({"config.json": a, "vocab.txt": b})
    folder = held.folder_of({"config.json": b})
    assert [file.name for file in folder.iterdir()] == ["config.json"]
    assert (folder / "config.json").read_bytes() == b"b" * 1000
    held.close()
    assert not folder.exists()


def test_use_counts_as_recent(tmp_path):
    cache = Cache(tmp_path, 3000)
    a, b, c = filled(cache, "a", "b", "c")
    used = Lease(cache)
    used.hold({a: 1000})
    used.close()
    now = Lease(cache)
    now.hold({"0" * 64: 1000})
    now.close()
    assert [cache.content(digest).exists() for digest in (a, b, c)] == [True, False, True]


def test_two_clients_of_a_machine_share_what_one_of_them_receives(
    spec, edge, tiny_bert, tmp_path, monkeypatch, new_device
):
    monkeypatch.setattr("services.edge.sending.CHUNK_BYTES", 4099)
    tap = Tap(edge.split)
    devices = [new_device(tmp_path, tap, name=name) for name in ("ann", "bob")]
    checkpoints, failures = {}, []

    def fetch(device):
        try:
            checkpoints[device] = device.fetched(spec)
        except ElsaError as error:
            failures.append(error)

    threads = [threading.Thread(target=fetch, args=[device]) for device in devices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures and len(checkpoints) == 2
    one = next(iter(checkpoints.values()))
    assert tap.data_bytes == needed_bytes(one) + beside_bytes(one)
    for checkpoint in checkpoints.values():
        assert_same_segment(segment(checkpoint), tiny_bert)


def test_the_edge_may_come_later_and_a_client_that_is_stopped_waits_no_more(spec, tmp_path, new_device):
    with edge_server() as edge:
        device = new_device(tmp_path, edge.split)
        asked = threading.Event()

        class Late:
            def FetchBlocks(self, request, timeout):
                if asked.is_set():
                    edge.open_run(spec, first_adapter(spec), ["ann"]) if not edge.runs._runs else None
                asked.set()
                return edge.split.FetchBlocks(request, timeout=timeout)

        device.stub = Late()
        device.fetched(spec)
        other = new_device(tmp_path, edge.split, run_id="unknown")
        threading.Timer(0.3, other.base.stop).start()
        with pytest.raises(RoundGivenUpError):
            other.open(spec)


def test_an_edge_that_stays_away_is_named(spec, tmp_path, new_device):
    with edge_server() as edge:
        pass
    device = new_device(tmp_path, edge.split, patience_s=0.1)
    with pytest.raises(UnreachableError, match="edge one"):
        device.open(spec)


@pytest.mark.parametrize("weights", ["local", None])
def test_a_model_of_this_machine_needs_no_edge(spec, tmp_path, weights, new_device):
    device = new_device(tmp_path / "cache", None, weights=weights)
    checkpoint = device.open(spec)
    assert checkpoint.folder == Path(spec.model.source) and not device.base.comes_from_edge
    assert device.base.complete(OWN, None, "") and not (tmp_path / "cache").exists()


def test_without_a_setting_nothing_is_downloaded_and_the_edge_is_asked(edge, tmp_path, spec, monkeypatch, new_device):
    asked = []

    def hub(source, **given):
        asked.append(given["local_files_only"])
        raise OSError("no network")

    monkeypatch.setattr("elsa.model.weights.snapshot_download", hub)
    away = spec.model_copy(update={"model": spec.model.model_copy(update={"source": "some/model"})})
    device = new_device(tmp_path, edge.split, weights=None)
    assert device.fetched(away).entries and asked == [True]
    with pytest.raises(CheckpointError, match=r"no network.*or set weights to edge"):
        new_device(tmp_path, edge.split, weights="local").open(away)
    assert asked == [True, False]


def test_a_call_never_lasts_long_enough_to_hide_a_silent_edge():
    assert fetching.CALL_S <= 120
