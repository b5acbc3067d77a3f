"""What an edge sends of a run's base, and to whom."""

import hashlib
import re
import shutil
import time

import grpc
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from split_harness import HALF, LABELS, RUN, edge_server, first_adapter, spec_of

from elsa.errors import CapacityError, PermissionDeniedError, RoundGivenUpError
from elsa.model import adapter as adapters
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.v1 import split_pb2 as pb
from elsa.wire.manifest import manifest_from_proto, tensors_sha256
from services.edge import base
from services.edge.sending import Sendings, sent

OWN = {"blocks": (0, 3), "ends": True}
OK = grpc.StatusCode.OK


@pytest.fixture
def asked(tiny_bert):
    """An edge with a run of ann and bob, and a function that asks it: messages, code, text."""
    spec = spec_of(tiny_bert)
    with edge_server() as edge:
        run = edge.open_run(spec, first_adapter(spec), ["ann", "bob"])

        def ask(client="ann", blocks=(0, 3), ends=True, run_id=RUN, wanted=()):
            wants = [pb.WantedContent(sha256=sha256, offset=offset) for sha256, offset in wanted]
            request = pb.FetchBlocksRequest(run_id=run_id, client_id=client, blocks=blocks, ends=ends, wanted=wants)
            messages = []
            try:
                messages.extend(edge.split.FetchBlocks(request, timeout=20))
            except grpc.RpcError as error:
                return messages, error.code(), error.details()
            return messages, OK, ""

        ask.edge, ask.run = edge, run
        yield ask


def contents(messages):
    """The bytes sent, by digest."""
    found, digest = {}, None
    for message in messages:
        if message.HasField("content"):
            digest = message.content.sha256
            assert digest not in found, "sent twice"
            found[digest] = b""
        elif message.HasField("chunk"):
            assert message.chunk.offset == len(found[digest])
            found[digest] += message.chunk.data
    return found


def test_the_manifest_lists_the_tensors_of_the_clients_segment_and_the_files_of_a_tokenizer(asked, tiny_bert):
    messages, code, _ = asked()
    assert (code, len(messages)) == (OK, 1)
    found = manifest_from_proto(messages[0].manifest)
    client = Segment.client(Checkpoint.open(str(tiny_bert)), HALF, task="classification", num_labels=len(LABELS))
    assert {t.name: t.shape for t in found.tensors} == {n: tuple(p.shape) for n, p in client.model.named_parameters()}
    assert [file.name for file in found.files] == ["config.json", "tokenizer.json", "tokenizer_config.json"]
    with safe_open(tiny_bert / "model.safetensors", framework="np") as stored:
        for tensor in found.tensors:
            raw = stored.get_tensor(tensor.name).tobytes()
            assert (tensor.sha256, tensor.size_bytes) == (hashlib.sha256(raw).hexdigest(), len(raw))


def test_what_is_wanted_comes_with_its_digests_and_nothing_else(asked):
    whole = manifest_from_proto(asked()[0][0].manifest)
    tensors = [t for t in whole.tensors if ".layer.3." in t.name]
    digests = [sha256 for sha256 in whole.contents if sha256 in {t.sha256 for t in tensors}]
    assert len(digests) < len(tensors), "contents that two have in common are to be sent once"
    messages, code, _ = asked(wanted=[(sha256, 0) for sha256 in reversed(digests)])
    assert code is OK
    found = contents(messages)
    assert {hashlib.sha256(data).hexdigest() for data in found.values()} == found.keys()
    assert list(found) == digests, "not in the manifest's order"


def test_contents_go_on_from_any_byte(asked):
    tensor = max(manifest_from_proto(asked()[0][0].manifest).tensors, key=lambda t: t.size_bytes)
    (whole,) = contents(asked(wanted=[(tensor.sha256, 0)])[0]).values()
    for offset in (1, 1000, tensor.size_bytes - 1):
        messages, code, _ = asked(wanted=[(tensor.sha256, offset)])
        assert code is OK
        assert b"".join(message.chunk.data for message in messages[2:]) == whole[offset:]
        assert (messages[1].content.offset, messages[2].chunk.offset) == (offset, offset)


def test_the_trunk_is_nobodys(asked):
    for blocks in ((1,), (0, 1), (0, 2, 3), (0, 9)):
        messages, code, text = asked(blocks=blocks)
        assert (messages, code) == ([], grpc.StatusCode.PERMISSION_DENIED)
        assert "is not ann's" in text


def test_strangers_get_nothing(asked):
    for run_id, client, code in [
        (RUN, "eve", grpc.StatusCode.PERMISSION_DENIED),
        ("other", "ann", grpc.StatusCode.NOT_FOUND),
    ]:
        assert asked(client, run_id=run_id)[:2] == ([], code)
        assert asked(client, run_id=run_id, blocks=(), ends=False)[:2] == ([], code)


def test_before_its_clients_are_known_an_edge_gives_the_files_and_no_tensor(asked):
    asked.run.rounds._roster.clients = None  # as while the run enrolls
    found = manifest_from_proto(asked("anyone")[0][0].manifest)
    messages, code, _ = asked("anyone", wanted=[(file.sha256, 0) for file in found.files])
    assert code is OK and contents(messages).keys() == {file.sha256 for file in found.files}
    messages, code, text = asked("anyone", wanted=[(found.tensors[0].sha256, 0)])
    assert (contents(messages), code) == ({}, grpc.StatusCode.UNAVAILABLE)
    assert "who its clients are" in text


def test_a_stream_ends_when_its_client_goes_to_another_edge_or_its_run_ends(asked, monkeypatch):
    monkeypatch.setattr("services.edge.sending.CHUNK_BYTES", 1000)
    tensor = max(manifest_from_proto(asked()[0][0].manifest).tensors, key=lambda t: t.size_bytes)
    wanted = [pb.WantedContent(sha256=tensor.sha256)]

    def begun(client):
        request = pb.FetchBlocksRequest(run_id=RUN, client_id=client, **OWN, wanted=wanted)
        stream = sent(asked.run, request, lambda: True)
        assert [next(stream).WhichOneof("message") for _ in range(4)] == ["manifest", "content", "chunk", "chunk"]
        return stream

    anns, bobs = begun("ann"), begun("bob")
    asked.run.rounds.admit(["bob"])
    with pytest.raises(PermissionDeniedError):
        next(anns)
    assert next(bobs).chunk.offset == 2000
    assert asked()[1] is grpc.StatusCode.PERMISSION_DENIED
    asked.run.rounds.end(RoundGivenUpError("run tiny-1 has ended"))
    with pytest.raises(RoundGivenUpError):
        next(bobs)
    assert asked("bob")[1] is grpc.StatusCode.ABORTED


def test_a_stream_that_nobody_reads_is_ended(tiny_bert, monkeypatch):
    monkeypatch.setattr("services.edge.sending.CHUNK_BYTES", 100)
    spec, now = spec_of(tiny_bert), [0.0]
    with edge_server(clock=lambda: now[0]) as edge:
        edge.open_run(spec, first_adapter(spec), ["ann"])
        request = pb.FetchBlocksRequest(run_id=RUN, client_id="ann", **OWN)
        found = manifest_from_proto(next(edge.split.FetchBlocks(request, timeout=20)).manifest)
        request.wanted.extend(pb.WantedContent(sha256=sha256) for sha256 in found.contents)
        stream = edge.split.FetchBlocks(request, timeout=20)
        next(stream)
        begin = time.monotonic()
        while not edge.idle._sending:
            assert time.monotonic() - begin < 10
        now[0] = 31.0
        edge.idle.end_idle()
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value.code() is grpc.StatusCode.CANCELLED


@pytest.mark.parametrize(
    ("wanted", "code", "said"),
    [
        ([("0" * 64, 0)], "NOT_FOUND", "not among those"),
        ([("../../etc/passwd", 0)], "INVALID_ARGUMENT", r"wanted\[0\].sha256"),
        ([("0" * 63, 0)], "INVALID_ARGUMENT", "no SHA-256"),
        ([("0" * 64, 0), ("0" * 64, 5)], "INVALID_ARGUMENT", "twice"),
    ],
)
def test_wants_that_break_their_contract_are_refused(asked, wanted, code, said):
    messages, found, text = asked(wanted=wanted)
    assert found.name == code and contents(messages) == {}
    assert re.search(said, text)


def test_offsets_past_the_end_and_blocks_out_of_order_are_refused(asked):
    tensor = manifest_from_proto(asked()[0][0].manifest).tensors[0]
    for offset in (tensor.size_bytes, 2**60):
        assert asked(wanted=[(tensor.sha256, offset)])[1] is grpc.StatusCode.INVALID_ARGUMENT
    for blocks in ((3, 0), (0, 0)):
        assert asked(blocks=blocks)[1] is grpc.StatusCode.INVALID_ARGUMENT


def test_edges_with_the_same_trunk_say_the_same_digest_and_others_do_not(asked, tiny_bert, tmp_path):
    ours = asked()[0][0].manifest.trunk_sha256
    assert ours == asked("bob", blocks=(), ends=False)[0][0].manifest.trunk_sha256
    other = tmp_path / "other"
    shutil.copytree(tiny_bert, other)
    tensors = load_file(other / "model.safetensors")
    tensors["bert.encoder.layer.2.output.dense.bias"][0] += 1
    save_file(tensors, other / "model.safetensors")
    spec = spec_of(other)
    with edge_server() as edge:
        edge.open_run(spec, first_adapter(spec), ["ann"])
        request = pb.FetchBlocksRequest(run_id=RUN, client_id="ann", **OWN)
        theirs = next(edge.split.FetchBlocks(request, timeout=20)).manifest
    assert theirs.trunk_sha256 != ours
    assert manifest_from_proto(theirs).tensors == manifest_from_proto(asked()[0][0].manifest).tensors
    assert tensors_sha256(manifest_from_proto(theirs).tensors) != ours


def test_digests_are_made_once_a_run_and_for_nobody_who_has_left(asked, monkeypatch):
    made, real = [], base._sha256
    monkeypatch.setattr(base, "_sha256", lambda pieces: made.append(1) or real(pieces))
    with pytest.raises(RoundGivenUpError):
        asked.run.base.part((0, 3), True, lambda: len(made) < 5)
    assert len(made) == 5
    found = manifest_from_proto(asked()[0][0].manifest)
    assert asked("bob")[0][0].manifest == asked()[0][0].manifest
    of_block = sum(".layer.0." in tensor.name for tensor in found.tensors)
    assert len(made) == len(found.entries) + 2 * of_block, "the client's own, and the two blocks of the trunk"


def test_a_newer_stream_of_a_client_ends_the_older_and_too_many_are_refused():
    sendings, ended = Sendings(1), []
    with sendings.one("run", "ann", lambda: ended.append("first")):
        with sendings.one("run", "ann", lambda: ended.append("second")):
            assert ended == ["first"]
            with pytest.raises(CapacityError, match="1 clients at once"), sendings.one("run", "bob", lambda: None):
                pass
        with sendings.one("run", "bob", lambda: None):  # the second has ended; the first, cancelled, does not count
            pass


def test_a_head_that_is_drawn_anew_is_not_sent(tiny_bert):
    spec = spec_of(tiny_bert, data={"labels": [*LABELS, "d", "e"]})
    with edge_server() as edge:
        checkpoint = Checkpoint.open(str(tiny_bert))
        config = adapters.adapter_config(checkpoint, spec.lora, spec.model.task, 5)
        start = adapters.initial_adapter(checkpoint, config, 5, 1)
        edge.open_run(spec, start, ["ann"])
        request = pb.FetchBlocksRequest(run_id=RUN, client_id="ann", **OWN)
        names = [t.name for t in next(edge.split.FetchBlocks(request, timeout=20)).manifest.tensors]
    assert "bert.pooler.dense.weight" in names and not any(name.startswith("classifier") for name in names)


def test_only_files_of_a_tokenizer_are_served(tiny_bert, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    (folder / "secret.txt").write_text("x")
    (folder / "README.md").write_text("x")
    (folder / "tokenizer.d").mkdir()
    (folder / "vocab.txt").write_text("")
    assert [file.name for file in Checkpoint.open(str(folder)).beside()] == [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ]
