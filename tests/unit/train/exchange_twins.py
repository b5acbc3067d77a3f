"""Training through a trunk behind codecs, turns and kept rows, and the same without."""

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from split_twins import Model, batch_of, session_of, training

from elsa.codecs import CodecsSpec
from elsa.model import adapter as adapters
from elsa.spec import Split
from elsa.train import step as steps
from elsa.train.client_end import ClientEnd
from elsa.train.edge_end import EdgeEnd
from elsa.train.exchanged import ExchangedTrunk
from elsa.train.reuse import ClientRows, EdgeRows
from elsa.train.step import SplitTrainer
from elsa.train.trunk import LocalTrunk
from elsa.wire.codec.registry import codec_set_from_proto, codec_set_to_proto
from elsa.wire.kept import KeptRows, Shelf

WIDTH = 16
HALF = Split(bottom=1, trunk=1, top=1)
ROOM = 1 << 24


def codecs_of(**texts):
    spec = CodecsSpec(**texts)
    return codec_set_from_proto(codec_set_to_proto(spec, WIDTH), WIDTH)


def ends_of(codecs, split=HALF, *, reuse=False, frozen=False, threshold=0.0, room=ROOM):
    """A client's end and its edge's, with rows that are kept if `reuse`."""
    client_rows = edge_rows = None
    if reuse:
        client_rows = ClientRows(frozen=frozen, threshold=threshold, kept=KeptRows(Shelf(ROOM, 0)))
        edge_rows = EdgeRows(KeptRows(Shelf(room, 0)), WIDTH, frozen=frozen)
    return ClientEnd(codecs, WIDTH, split, rows=client_rows), EdgeEnd(codecs, WIDTH, rows=edge_rows)


def epochs(task, count=2, size=4, lengths=(3, 9, 1, 5, 5, 2, 7, 4), shuffled=True):
    """Batches of numbered rows; each epoch has all rows, in an order of its own."""
    whole = replace(batch_of(lengths, task), rows=tuple(range(len(lengths))))
    for epoch in range(count):
        order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(epoch)).tolist()
        order = order if shuffled else list(range(len(lengths)))
        for begin in range(0, len(order), size):
            yield whole.take(order[begin : begin + size])


@dataclass
class Outcome:
    losses: list = field(default_factory=list)
    tensors: dict = field(default_factory=dict)
    h1_bytes: list = field(default_factory=list)  # of each step
    down: list = field(default_factory=list)
    forms: list = field(default_factory=list)  # Counter of each forward
    bottom_rows: list = field(default_factory=list)  # of each step


def train(model: Model, batches, trunk_of, *, split=HALF, frozen=False, micro_batches=2, window=2, monkeypatch=None):
    """Train on `batches` through `trunk_of(session)`."""
    client, edge, spec = model.client(split), model.edge(), training(micro_batches, window)
    session = session_of(edge, split, spec, wants_gradient=not frozen)
    trunk, outcome, rows = trunk_of(session), Outcome(), []
    trainer = SplitTrainer(client, trunk, split=split, task=model.task, training=spec, bottom_adapters=not frozen)
    if monkeypatch is not None:
        real = steps.bottom_activations

        def counted(segment, batch, split):
            rows.append(len(batch))
            return real(segment, batch, split)

        monkeypatch.setattr(steps, "bottom_activations", counted)
    for batch in batches:
        before = getattr(trunk, "h1_bytes", 0), trunk.bytes.down if isinstance(trunk, ExchangedTrunk) else 0
        rows.clear()
        outcome.losses.append(trainer.train_step(batch))
        outcome.bottom_rows.append(sum(rows))
        if isinstance(trunk, ExchangedTrunk):
            outcome.h1_bytes.append(trunk.h1_bytes - before[0])
            outcome.down.append(trunk.bytes.down - before[1])
    outcome.tensors = adapters.read(client, split=split) | session.finish(trainer.step)
    return outcome


def locally(model, batches, **given):
    return train(model, batches, LocalTrunk, **given)


def exchanged(model, batches, ends, *, split=HALF, turn=None, keyed=False, **given):
    """As `train`, through `ends`; `forms` counts what the rows of each forward were sent as."""
    forms = []
    client = ends[0]
    real = client.forward

    def noted(*args):
        parcel = real(*args)
        forms.append(Counter(row.form.value for row in parcel.rows))
        return parcel

    client.forward = noted
    try:
        outcome = train(
            model,
            batches,
            lambda session: ExchangedTrunk(*ends, session, split, turn=turn, keyed=keyed),
            split=split,
            **given,
        )
    finally:
        del client.forward
    outcome.forms = forms
    return outcome


def assert_near(got, want, tolerance=1e-5):
    np.testing.assert_allclose(got.losses, want.losses, rtol=0, atol=tolerance)
    assert got.tensors.keys() == want.tensors.keys()
    for name in want.tensors:
        np.testing.assert_allclose(got.tensors[name], want.tensors[name], rtol=0, atol=tolerance, err_msg=name)
