"""The client in NumPy computes what the one in torch computes, and a whole run with it ends as one without it."""

import json
import subprocess
import sys
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from certified_fleet import certified_system
from examples_folder import EXAMPLES
from fleet_harness import system, write_rows
from hypothesis import given
from hypothesis import strategies as st
from numpy_client import wire
from numpy_client.__main__ import dialed, main
from numpy_client.bert import AdamW, Bert, cross_entropy
from numpy_client.member import check
from numpy_client.rows import read as read_rows
from numpy_client.words import Words
from safetensors.torch import load_file
from split_harness import HALF, LABELS, client_segment, first_adapter, spec_of

from elsa.data.batches import Batch
from elsa.data.probes import public_probes
from elsa.model import adapter as adapters
from elsa.model.weights import Checkpoint
from elsa.spec import RunSpec, Split
from elsa.train.loss import loss_sum
from elsa.train.optimizer import adamw
from elsa.v1 import fleet_pb2, run_pb2
from elsa.v1.tensor_pb2 import CodecSpec
from elsa.wire.adapter import decode_adapter, encode_adapter
from elsa.wire.codec.registry import codec_set_to_proto

COMPLETED = fleet_pb2.RUN_STATE_COMPLETED
TOLERANCE = 1e-5
QUICK = {"min_clients": 1, "min_edges": 1, "enroll_timeout_s": 60}


def batch_of(lengths):
    draw = np.random.default_rng(3)
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    ids = np.where(mask, draw.integers(5, 45, mask.shape), 0)
    return ids, mask, draw.integers(0, len(LABELS), len(lengths))


def twins(folder, split):
    """The same parts of one model in NumPy and in torch."""
    spec = spec_of(folder)
    start = first_adapter(spec)
    segment = client_segment(spec, split, start)
    config = json.loads((folder / "config.json").read_text())
    base = {name: values.numpy() for name, values in load_file(folder / "model.safetensors").items()}
    model = Bert(config, base, spec.lora.alpha / spec.lora.rank)
    model.adapter = {name: start[name] for name in adapters.names(segment)}
    return model, segment, spec


@pytest.mark.parametrize("split", [HALF, Split(bottom=2, trunk=2, top=0)], ids=str)
def test_a_step_in_numpy_is_the_one_of_torch(wordpiece_bert, split):
    """Activations, loss, all gradients and what the optimizer makes of them, with the trunk as the identity."""
    model, segment, spec = twins(wordpiece_bert, split)
    ids, mask, labels = batch_of([7, 3, 5])
    hidden, to_bottom = model.bottom(ids, mask, range(split.bottom))
    logits, to_top = model.top(np.where(mask[:, :, None], hidden, 0), mask, range(4 - split.top, 4))
    loss, _, gradient = cross_entropy(logits, labels, len(labels))
    by_above = to_top(gradient)
    to_bottom(by_above)

    batch = Batch(
        input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask).long(), token_type_ids=None,
        labels=torch.tensor(labels),
    )  # fmt: skip
    wanted = segment.bottom(batch.input_ids, batch.attention_mask, split=split)
    above = torch.where(torch.tensor(mask)[:, :, None], wanted, 0.0)
    above.retain_grad()
    wanted_loss = (
        loss_sum(segment.top(above, batch.input_ids, batch.attention_mask, split), batch.labels, "classification") / 3
    )
    wanted_loss.backward()

    np.testing.assert_allclose(hidden[mask], wanted.detach().numpy()[mask], atol=TOLERANCE)
    assert loss == pytest.approx(wanted_loss.item(), abs=TOLERANCE)
    np.testing.assert_allclose(by_above[mask], above.grad.numpy()[mask], atol=TOLERANCE)
    parameters = dict(zip(sorted(adapters.names(segment)), adapters.parameters(segment), strict=True))
    assert model.gradients.keys() == parameters.keys()
    for name, parameter in parameters.items():
        assert np.abs(model.gradients[name]).max() > 1e-3, name
        np.testing.assert_allclose(model.gradients[name], parameter.grad.numpy(), atol=TOLERANCE, err_msg=name)

    optimizer = AdamW(model.adapter, spec.training.optimizer.model_dump())
    reference = adamw(parameters.values(), spec.training.optimizer)
    gradients = model.take_gradients()
    for name, parameter in parameters.items():
        parameter.grad.copy_(torch.tensor(gradients[name]))
    for _ in range(3):
        optimizer.step(gradients)
        reference.step()
    for name, parameter in parameters.items():
        np.testing.assert_allclose(model.adapter[name], parameter.detach().numpy(), atol=1e-6, err_msg=name)


def test_texts_get_the_numbers_that_the_tokenizer_of_minilm_gives_them():
    checkpoint = Checkpoint.open("minilm")
    words = Words((checkpoint.folder / "tokenizer.json").read_bytes())
    tokenizer = checkpoint.tokenizer()
    texts = [
        *public_probes(),
        "Crème brûlée, naïve — «œuvre»!",
        "a" * 300,
        "tab\there\u200b日本 語\x00",
        "don't 50% (x_y) `z`^2",
        "",
    ]
    for text in texts:
        assert words.numbers(text, 48) == tokenizer(text, truncation=True, max_length=48)["input_ids"], text


@pytest.mark.parametrize("codec", wire.CODECS)
@given(seed=st.integers(0, 1000), size=st.sampled_from([1e-6, 1.0, 100.0]))
def test_codecs_are_those_of_the_package(codec, seed, size):
    spec = spec_of("x", codecs={"h1": codec})
    registered = codec_set_to_proto(spec.codecs, 8).h1
    assert wire.CODECS[codec] == registered
    values = np.random.default_rng(seed).normal(0, size, (5, 8)).astype(np.float32)
    parts = wire.encode(values, codec)
    theirs = pipeline(registered)
    for (_, ours), wanted in zip(parts, theirs.encode(torch.tensor(values)), strict=True):
        assert ours.tobytes() == wanted.contiguous().view(torch.uint8).numpy().tobytes()
    decoded = theirs.decode(theirs.encode(torch.tensor(values)))
    np.testing.assert_array_equal(wire.decode([part for _, part in parts], codec), decoded.numpy())


def pipeline(spec: CodecSpec):
    from elsa.wire.codec.registry import codec_from_proto

    return codec_from_proto(spec, 8, "codec")


def test_adapters_are_read_and_written_as_the_package_does():
    draw = np.random.default_rng(1)
    tensors = {name: draw.normal(size=(2, 3)).astype(np.float32) for name in ("b.weight", "a.weight")}
    assert list(decode_adapter(wire.write_adapter(tensors))) == ["a.weight", "b.weight"]
    for read in (decode_adapter(wire.write_adapter(tensors)), wire.read_adapter(encode_adapter(tensors))):
        for name, values in tensors.items():
            np.testing.assert_array_equal(read[name], values)


def test_large_payloads_travel_in_chunks_and_altered_ones_are_refused():
    data = np.random.default_rng(0).bytes(2_500_000)
    pieces = list(wire.chunks(data))
    assert [len(piece.data) for piece in pieces] == [1_000_000, 1_000_000, 500_000]
    assert wire.joined(iter(pieces)) == data
    assert wire.joined(wire.chunks(b"")) == b""
    with pytest.raises(ValueError, match="out of order"):
        wire.joined(iter(pieces[1:]))
    with pytest.raises(ValueError, match="ended before"):
        wire.joined(iter(pieces[:2]))


def test_what_it_cannot_do_it_says(wordpiece_bert):
    check(spec_of(wordpiece_bert).model_dump(mode="json"))
    given = RunSpec.from_yaml((EXAMPLES / "numpy_client" / "run.yaml").read_text())
    check(given.model_dump(mode="json"))
    with pytest.raises(ValueError, match=r"codecs\.h1 is 'int4'; this client, a small example, can do none or bf16"):
        check(spec_of(wordpiece_bert, codecs={"h1": "int4"}).model_dump(mode="json"))


@pytest.mark.parametrize(
    ("section", "given"),
    [("data", {"long_rows": "drop"}), ("training", {"early_stopping": {"patience": 1}})],
)
def test_what_it_would_do_otherwise_than_asked_it_refuses(wordpiece_bert, section, given):
    with pytest.raises(ValueError, match=rf"{section}\.{next(iter(given))} is "):
        check(spec_of(wordpiece_bert, **{section: given}).model_dump(mode="json"))


def test_it_calls_nobody_in_the_clear_but_this_machine(tmp_path):
    given = [tmp_path / "ca.pem", None, None]
    for address, tls in (("cloud.example:7400", [None] * 3), ("127.0.0.1:7400", given), ("192.0.2.1:7400", given)):
        with pytest.raises(ValueError, match=rf"to call cloud at {address}, give all of --tls-ca"):
            dialed(address, "cloud", tls)
    for address in ("127.0.0.1:7400", "localhost:7400", "[::1]:7400"):
        dialed(address, "cloud", [None] * 3).close()


def test_an_address_in_the_clear_ends_it_with_the_reason(tmp_path, capsys):
    assert main(["--cloud", "cloud.example:7400", "--data", str(write_rows(tmp_path / "rows.jsonl", 1, 1))]) == 1
    assert "give all of --tls-ca" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--data", "--heldout"])
def test_a_file_that_is_not_there_is_named_before_anybody_is_called(tmp_path, capsys, flag):
    rows = write_rows(tmp_path / "rows.jsonl", 1, 1)
    with pytest.raises(SystemExit) as ended:
        main(["--data", str(rows), flag, str(tmp_path / "missing.jsonl")])
    assert ended.value.code == 2
    assert f"{tmp_path / 'missing.jsonl'} is not a file" in capsys.readouterr().err


def test_rows_without_their_fields_are_no_rows(wordpiece_bert, tmp_path):
    spec = spec_of(wordpiece_bert).model_dump(mode="json")
    words = Words((wordpiece_bert / "tokenizer.json").read_bytes())
    for line in ('{"text": "w1"}', "[]", "no json"):
        (tmp_path / "rows.jsonl").write_text(line)
        with pytest.raises(ValueError, match=r"fields label and text|Expecting value"):
            read_rows(tmp_path / "rows.jsonl", spec, words)


def test_the_run_that_it_refuses_is_the_one_that_it_looked_at(wordpiece_bert, tmp_path, monkeypatch):
    """Also where the next run is offered while it looks."""
    texts = (spec_of(wordpiece_bert, codecs={"h1": "int4"}).to_yaml(), spec_of(wordpiece_bert).to_yaml())
    offers = iter(fleet_pb2.Assignment(run_id=f"run-{n}", spec=text) for n, text in enumerate(texts))
    refused = []
    cloud = SimpleNamespace(
        offered=lambda: next(offers),
        refuse=lambda run_id, reason: refused.append((run_id, reason)),
        close=lambda: None,
    )
    monkeypatch.setattr("numpy_client.__main__.Cloud", lambda *_: cloud)
    rows = write_rows(tmp_path / "rows.jsonl", 1, 1)
    assert main(["--data", str(rows), "--run", "run-0"]) == 1
    ((run_id, reason),) = refused
    assert run_id == "run-0"
    assert reason.startswith("codecs.h1 is 'int4'")


class Running(Thread):
    """The program with these flags, in a thread."""

    def __init__(self, flags):
        super().__init__()
        self._flags = flags
        self._code = None
        self.start()

    def run(self):
        self._code = main(self._flags)

    def code(self):
        """With which it exits. It must end soon."""
        self.join(30)
        assert not self.is_alive()
        return self._code


def flags_of(at, rows, kept):
    told = {"name": "ann", "cloud": at.address, "dataset": "words", "data": rows, "heldout": kept}
    return [f"--{name.replace('_', '-')}={value}" for name, value in told.items()]


def ran(folder, spec, kind):
    """The evaluations and the exported adapter of a run with one client, in torch or in NumPy."""
    folder.mkdir()
    rows, kept = write_rows(folder / "rows.jsonl", 24, 1), write_rows(folder / "kept.jsonl", 12, 2)
    with system(folder) as at:
        at.edge("edge-1")
        if kind == "torch":
            at.client("ann", rows, heldout={"words": str(kept)}, cache=folder / "cache")
            running = None
        else:
            running = Running(flags_of(at, rows, kept))
        run_id = at.submit(spec)
        *_, last = at.events(run_id)
        assert last.state_changed.state == COMPLETED, last
        assert running is None or running.code() == 0
        return list(at.get(run_id).evaluations), decode_adapter(at.export(run_id)["adapter_model.safetensors"])


def test_a_run_in_numpy_is_the_one_in_torch(wordpiece_bert, tmp_path):
    """With batches of all rows, so that both see the same ones, in two micro-batches, over two rounds of two."""
    spec = spec_of(wordpiece_bert, fleet=QUICK, training={"batch": 24, "micro_batches": 2, "local_steps": 3})
    (ours, tensors), (theirs, wanted) = (ran(tmp_path / kind, spec, kind) for kind in ("numpy", "torch"))
    assert [found.version for found in ours] == [0, 1, 2]
    assert ours[-1].loss < ours[0].loss
    for found, other in zip(ours, theirs, strict=True):
        assert (found.rows, found.version) == (other.rows, other.version)
        assert found.loss == pytest.approx(other.loss, abs=1e-5)
    assert tensors.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_allclose(tensors[name], wanted[name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize("codec", ["int8", "bf16"])
def test_it_learns_under_codecs_and_beside_a_client_in_torch(wordpiece_bert, tmp_path, codec):
    codecs = dict.fromkeys(("h1", "h2", "dh2", "dh1"), codec)
    spec = spec_of(wordpiece_bert, fleet=QUICK | {"min_clients": 2}, codecs=codecs, training={"local_steps": 8})
    rows, kept = write_rows(tmp_path / "rows.jsonl", 24, 1), write_rows(tmp_path / "kept.jsonl", 12, 2)
    with system(tmp_path) as at:
        at.edge("edge-1")
        at.client("bob", write_rows(tmp_path / "bob.jsonl", 24, 3), cache=tmp_path / "cache")
        running = Running(flags_of(at, rows, kept))
        run_id = at.submit(spec)
        events = list(at.events(run_id))
        assert events[-1].state_changed.state == COMPLETED
        assert running.code() == 0
        reported = [e.evaluation_reported for e in events if e.WhichOneof("event") == "evaluation_reported"]
        losses = [each.evaluation.loss for each in reported if each.client_id == "ann"]
    assert len(losses) == 3
    assert losses[-1] < losses[0]


def cancel(at, run_id):
    at.runs.CancelRun(run_pb2.CancelRunRequest(run_id=run_id), timeout=10)


def declined(at, run_id):
    """Why this client takes no part in a run, as the cloud tells it."""
    joined = at.wait(run_id, lambda event: event.node_joined.node_id == "ann").node_joined
    assert not joined.accepted
    return joined.detail


def test_runs_that_are_not_for_it_or_end_are_told_why_and_it_waits_for_one_that_is(wordpiece_bert, tmp_path, capsys):
    """One that it cannot do, then one that is cancelled before it trains, then its own."""
    rows = write_rows(tmp_path / "rows.jsonl", 24, 1)
    with system(tmp_path) as at:
        at.edge("edge-1")
        running = Running(flags_of(at, rows, rows))
        strange = at.submit(spec_of(wordpiece_bert, fleet=QUICK, codecs={"h1": "int4"}))
        assert declined(at, strange).startswith("codecs.h1 is 'int4'")
        assert [*at.events(strange)][-1].state_changed.state == fleet_pb2.RUN_STATE_FAILED
        at.register_client("silent")
        short = at.submit(spec_of(wordpiece_bert, fleet=QUICK | {"min_clients": 2}))
        assert at.wait(short, lambda event: event.node_joined.node_id == "ann").node_joined.accepted
        cancel(at, short)
        own = at.submit(spec_of(wordpiece_bert, fleet=QUICK))
        assert [*at.events(own)][-1].state_changed.state == COMPLETED
        assert running.code() == 0
    said = capsys.readouterr().err
    assert f"declines run {strange}: codecs.h1 is 'int4'" in said
    assert f"run {short} ended before it trained" in said


def test_it_takes_part_in_the_run_that_it_was_started_for_alone(wordpiece_bert, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", 24, 1)
    spec = spec_of(wordpiece_bert, fleet=QUICK)
    with system(tmp_path) as at:
        at.edge("edge-1")
        wanted = f"{spec.name}-2"
        running = Running([*flags_of(at, rows, rows), "--run", wanted])
        other = at.submit(spec)
        assert declined(at, other) == f"this client takes part in run {wanted} alone"
        assert [*at.events(other)][-1].state_changed.state == fleet_pb2.RUN_STATE_FAILED
        assert at.submit(spec) == wanted
        assert [*at.events(wanted)][-1].state_changed.state == COMPLETED
        assert running.code() == 0


def test_without_the_run_that_it_was_started_for_it_ends_with_the_reason(wordpiece_bert, tmp_path, capsys):
    rows = write_rows(tmp_path / "rows.jsonl", 24, 1)
    spec = spec_of(wordpiece_bert, fleet=QUICK | {"min_clients": 2})
    with system(tmp_path) as at:
        at.edge("edge-1")
        at.register_client("silent")
        running = Running([*flags_of(at, rows, rows), "--run", f"{spec.name}-1"])
        run_id = at.submit(spec)
        assert at.wait(run_id, lambda event: event.node_joined.node_id == "ann").node_joined.accepted
        cancel(at, run_id)
        assert running.code() == 1
    assert f"run {run_id} ended before it trained" in capsys.readouterr().err


def test_it_takes_part_under_tls(wordpiece_bert, tmp_path):
    spec = spec_of(wordpiece_bert, fleet=QUICK)
    rows, kept = write_rows(tmp_path / "rows.jsonl", 24, 1), write_rows(tmp_path / "kept.jsonl", 12, 2)
    with certified_system(tmp_path) as (at, certified):
        at.edge("edge-1", **certified.settings("edge", "edge-1"))
        flags = [*flags_of(at, rows, kept), *certified.flags("client", "ann")]
        running = Running(flags)
        *_, last = at.events(at.submit(spec))
        assert running.code() == 0
    assert last.state_changed.state == COMPLETED, last


def test_it_needs_no_torch():
    """Nor anything else of this package than the generated protos."""
    code = (
        "import sys, numpy_client.__main__\n"
        "loaded = {name for name in sys.modules if name.partition('.')[0] in ('torch', 'elsa', 'services')}\n"
        "sys.exit(', '.join(n for n in loaded if n != 'elsa' and not n.startswith('elsa.v1')) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=EXAMPLES, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
