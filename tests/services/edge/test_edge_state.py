"""What an edge keeps of a closed edge round is enough to go on as if nothing had been, and is whole or not there."""

import errno
import hashlib
import io
import json
import logging
import os
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elsa.errors import MalformedError
from elsa.v1 import adapter_pb2
from services.edge.delivery import Delivery
from services.edge.parts import Closed, Part, Report
from services.edge.saved import Kept, Made, OfCluster, Saved, read, write
from services.edge.state import EdgeState

SHAPES = {"a.lora_A": (2, 3), "b.lora_B": (3, 2)}
EDGE, RUN = "edge-1", "tiny-1"
floats = st.floats(-1e4, 1e4, width=32)


def adapter(seed):
    draw = np.random.default_rng(seed)
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


adapters = st.integers(0, 2**32).map(adapter)


@st.composite
def parts(draw, edge_round):
    clients = draw(st.lists(st.sampled_from(["ann", "bob", "cat", "dan"]), unique=True, max_size=3))
    reports = [
        Report(
            client=name,
            rows=5,
            message=adapter_pb2.ClientReport(
                client_id=name, edge_round=edge_round, rows=5, loss=draw(st.floats(0, 9))
            ).SerializeToString(),
        )
        for name in clients
    ]
    return Part(
        adapter=draw(adapters),
        rows=draw(st.integers(1, 2**40)),
        clients=draw(st.integers(0, len(clients))),
        steps=draw(st.floats(0.1, 9)),
        reports=tuple(reports),
        moved={name: [draw(floats)] for name in clients},
    )


@st.composite
def closed_rounds(draw):
    rounds = draw(st.integers(1, 4))
    return [
        Closed(
            parts=draw(st.dictionaries(st.integers(0, 3), parts(number), max_size=3)),
            missing=(),
            cut_short=draw(st.booleans()),
        )
        for number in range(rounds)
    ]


def encode(saved):
    file = io.BytesIO()
    write(saved, file)
    return file.getvalue()


def decode(data):
    return read(io.BytesIO(data))


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
        assert one[name].dtype == other[name].dtype == np.float32


def saved_of(delivery, own=None, edge_rounds=1, clusters=None, run_id=RUN, edge=EDGE):
    return Saved(
        edge=edge,
        run_id=run_id,
        version=0,
        edge_rounds=edge_rounds,
        start_sha256="ab" * 32,
        made=delivery.made(),
        kept=Kept(clusters=clusters or {}, clusters_version=None, own=own or {}),
    )


@settings(max_examples=60, deadline=None)
@given(closed=closed_rounds(), cut=st.integers(0, 4), together=st.booleans(), least=st.sampled_from([0.0, 2.5]))
def test_a_delivery_that_was_kept_at_any_edge_round_ends_as_one_that_was_not(closed, cut, together, least):
    start = adapter(7)
    plain, first, second = (Delivery(start, together=together, least_steps=least) for _ in range(3))
    for number, one in enumerate(closed):
        plain.add(one)
        if number < cut:
            first.add(one)
    second.resume(decode(encode(saved_of(first))).made)
    for one in closed[cut:]:
        second.add(one)
    (mean, own), (mean_too, own_too) = plain.go_on(), second.go_on()
    same(mean, mean_too)
    assert own.keys() == own_too.keys() and plain.cut_short == second.cut_short
    for cluster in own:
        same(own[cluster], own_too[cluster])
    parcels, parcels_too = plain.parcels(), second.parcels()
    assert len(parcels) == len(parcels_too)
    for one, other in zip(parcels, parcels_too, strict=True):
        assert (one.cluster, one.rows, one.steps, one.reports) == (
            other.cluster,
            other.rows,
            other.steps,
            other.reports,
        )
        same(one.adapter, other.adapter)


@settings(max_examples=40, deadline=None)
@given(
    closed=closed_rounds(),
    own=st.dictionaries(st.sampled_from(["ann", "bob.x", "c-d"]), adapters, max_size=2),
    clusters=st.dictionaries(st.sampled_from(["ann", "bob.x"]), st.integers(0, 9)),
    version=st.none() | st.integers(0, 9),
)
def test_decode_inverts_encode(closed, own, clusters, version):
    delivery = Delivery(adapter(1))
    for one in closed:
        delivery.add(one)
    saved = saved_of(delivery, own, len(closed), clusters)
    saved = Saved(**{**vars(saved), "kept": Kept(clusters=clusters, clusters_version=version, own=own)})
    found = decode(encode(saved))
    assert encode(found) == encode(saved)
    assert (found.kept.clusters, found.kept.clusters_version, found.kept.own.keys()) == (
        clusters,
        version,
        own.keys(),
    )
    for client in own:
        same(found.kept.own[client], own[client])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_that_is_torn_or_altered_is_never_used(data):
    delivery = Delivery(adapter(1))
    delivery.add(Closed(parts={0: Part(adapter=adapter(2), rows=3, clients=1, reports=())}, missing=()))
    whole = encode(saved_of(delivery))
    place = data.draw(st.integers(0, len(whole) - 1))
    torn = (
        whole[:place] if data.draw(st.booleans()) else whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    )
    with pytest.raises(MalformedError, match="digest"):
        decode(torn)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_with_a_right_digest_raise_anything_else(rest):
    with pytest.raises(MalformedError, match="another version"):
        decode(hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest)


def kept(tmp_path, run_id=RUN, seed=2, **fields):
    delivery = Delivery(adapter(1))
    delivery.add(Closed(parts={0: Part(adapter=adapter(seed), rows=3, clients=1, reports=())}, missing=()))
    return saved_of(delivery, run_id=run_id, **fields)


def files(tmp_path):
    return sorted(file.name for file in tmp_path.iterdir())


def test_the_newest_round_of_each_run_is_kept_and_nothing_else(tmp_path):
    state = EdgeState(tmp_path, EDGE)
    assert state.get(RUN) is None
    for edge_rounds in (1, 2, 3):
        assert state.put(kept(tmp_path, seed=edge_rounds, edge_rounds=edge_rounds))
    state.put(kept(tmp_path, run_id="../other/run"))
    assert files(tmp_path) == ["..%2Fother%2Frun.round", "tiny-1.round"]
    assert EdgeState(tmp_path, EDGE).get(RUN).edge_rounds == 3
    state.drop(RUN)
    state.drop(RUN)
    assert state.get(RUN) is None and state.get("../other/run") is not None


def test_runs_that_have_ended_and_files_that_were_never_finished_are_swept(tmp_path):
    state = EdgeState(tmp_path, EDGE)
    for run_id in ("tiny-1", "tiny-2", "tiny-3"):
        state.put(kept(tmp_path, run_id=run_id))
    (tmp_path / "0123.aside").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("an owner's own")
    state.keep_only(["tiny-2", "tiny-4"])
    assert files(tmp_path) == ["notes.txt", "tiny-2.round"]
    EdgeState(tmp_path / "nowhere", EDGE).keep_only(["tiny-2"])


@pytest.mark.parametrize("edge", ["edge-2", "EDGE-1"])
def test_a_file_of_another_edge_or_run_is_ignored_with_one_warning(tmp_path, caplog, edge):
    EdgeState(tmp_path, EDGE).put(kept(tmp_path))
    assert EdgeState(tmp_path, edge).get(RUN) is None
    (tmp_path / "tiny-1.round").rename(tmp_path / "tiny-2.round")
    assert EdgeState(tmp_path, EDGE).get("tiny-2") is None
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 2 and all("is ignored (it is of run tiny-1 at edge-1)" in said for said in warned)


def test_a_full_disk_is_said_once_and_what_was_kept_before_stays(tmp_path, caplog, monkeypatch):
    state = EdgeState(tmp_path, EDGE)
    state.put(kept(tmp_path, edge_rounds=1))

    def full(opened):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("services.edge.state.os.fsync", full)
        assert not state.put(kept(tmp_path, edge_rounds=2))
        assert not state.put(kept(tmp_path, edge_rounds=3))
    assert files(tmp_path) == ["tiny-1.round"] and state.get(RUN).edge_rounds == 1
    (warned,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "No space left on device" in warned and "goes on in memory" in warned and "set state" in warned
    assert state.put(kept(tmp_path, edge_rounds=4)) and state.get(RUN).edge_rounds == 4


def test_a_folder_that_cannot_be_made_stops_nothing(tmp_path, caplog):
    (tmp_path / "state").write_text("a file")
    state = EdgeState(tmp_path / "state" / "edges" / EDGE, EDGE)
    state.keep_only([RUN])
    assert not state.put(kept(tmp_path))
    assert state.get(RUN) is None
    state.drop(RUN)
    assert "goes on in memory" in caplog.text


def test_whoever_reads_while_another_writes_finds_one_whole_file(tmp_path):
    state, stop = EdgeState(tmp_path, EDGE), threading.Event()
    state.put(kept(tmp_path, edge_rounds=1))

    def write():
        for number in range(1, 60):
            state.put(kept(tmp_path, edge_rounds=number))
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    last = 1
    while not stop.is_set():
        found = EdgeState(tmp_path, EDGE).get(RUN)
        assert found is not None and found.edge_rounds >= last
        last = found.edge_rounds
    writer.join()


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (2, 1, 2)])
def test_a_tensor_comes_back_in_its_shape(shape):
    own = {"ann": {"a.lora_A": np.full(shape, 3, np.float32)}}
    found = decode(encode(kept(None, own=own))).kept.own["ann"]["a.lora_A"]
    assert found.shape == shape
    same({"a": found}, {"a": own["ann"]["a.lora_A"]})


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ({"shape": [2], "data_offsets": [0, 4]}, "bytes are not those of its shape"),
        ({"shape": [1], "data_offsets": [4, 8]}, "bytes are not those of its shape"),
        ({"shape": [2], "data_offsets": [0, 8]}, "8 bytes, and 4 are there"),
        ({"shape": [0], "data_offsets": [0, 0]}, "0 bytes, and 4 are there"),
        ({"shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}, "bytes"),
        ({"shape": [-1], "data_offsets": [0, 4]}, "greater than or equal to 0"),
        ({"shape": [1], "data_offsets": [0, 4], "dtype": "F64"}, "dtype"),
    ],
)
def test_a_header_that_tells_otherwise_than_its_bytes_is_refused_by_name(place, text):
    """With a digest that is right, as of another version's file."""
    numbers = encode(kept(None)).split(b"\n")[1]
    header = json.dumps({"own/ann/a": {"dtype": "F32", **place}}).encode()
    rest = numbers + b"\n" + len(header).to_bytes(8, "little") + header + bytes(4)
    with pytest.raises(MalformedError, match=rf"^it is of another version of ELSA .*{text}"):
        decode(hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest)


def test_what_does_not_fit_the_run_is_refused_by_name():
    delivery = Delivery(adapter(1))
    good = OfCluster(rows=1, clients=1, steps=0.0)
    other = {**adapter(2), "b.lora_B": np.zeros((1, 1), np.float32)}
    made = Made(
        of_clusters={0: good}, adapters={0: other}, reports={0: b""}, mean=None, mean_steps=0, cut_short=False
    )
    with pytest.raises(MalformedError, match=r"b\.lora_B"):
        delivery.resume(made)


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_what_is_kept_of_clients_is_for_the_edges_own_user_alone(tmp_path, umask):
    before = os.umask(umask)
    try:
        for folder in (tmp_path / "new" / "edges" / EDGE, tmp_path / "there"):
            if folder.name == "there":  # by an earlier version
                folder.mkdir(mode=0o755)
                (folder / "tiny-1.round").touch(mode=0o644)
            EdgeState(folder, EDGE).put(kept(tmp_path))
            assert folder.stat().st_mode & 0o777 == 0o700
            assert (folder / "tiny-1.round").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_what_is_being_written_is_for_the_edges_own_user_alone(tmp_path, monkeypatch):
    seen = []

    def looking(opened):
        seen.extend(file.stat().st_mode & 0o777 for file in tmp_path.iterdir())

    monkeypatch.setattr("services.edge.state.os.fsync", looking)
    EdgeState(tmp_path, EDGE).put(kept(tmp_path))
    assert set(seen) == {0o600}


def test_keeping_takes_no_memory_of_the_size_of_what_is_kept(tmp_path):
    """All clients' own tensors are in memory once, and a plan reckons with no second copy."""
    state, values = EdgeState(tmp_path, EDGE), np.ones((512, 1024), np.float32)
    saved = kept(tmp_path, own={f"client-{number}": {"a.lora_A": values} for number in range(16)})
    tracemalloc.start()
    try:
        assert state.put(saved)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "tiny-1.round").stat().st_size > 16 * values.nbytes
    assert peak_bytes < values.nbytes


def test_taking_up_what_was_kept_takes_memory_for_that_alone(tmp_path):
    state, values = EdgeState(tmp_path, EDGE), np.ones((512, 1024), np.float32)
    state.put(kept(tmp_path, own={f"client-{number}": {"a.lora_A": values} for number in range(16)}))
    tracemalloc.start()
    try:
        found = state.get(RUN)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.kept.own) == 16
    assert peak_bytes < 17.5 * values.nbytes
