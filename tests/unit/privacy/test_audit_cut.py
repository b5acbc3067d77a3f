"""The audit's own protection of h1 does to states what a run's does."""

from dataclasses import replace

import pytest
import torch

from elsa.privacy.audit.cut import Cut
from elsa.spec import DataSpec, RunSpec

WIDTH, RANK, KEY = 32, 12, 0


def states(tokens, seed):
    """States that vary most in few directions, about a mean."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, WIDTH, generator=draw) * 0.7 ** torch.arange(WIDTH) * 10 + 1


def cut_of(h1, edge):
    return Cut(spec=spec_of(h1, ssop={"rank": RANK, "edge": edge}), public=states(500, 0))


def spec_of(h1, **privacy):
    return RunSpec(
        preset="none",
        data=DataSpec(labels=("a", "b")),
        codecs={"h1": h1},
        privacy=privacy,
    )


@pytest.mark.parametrize("h1", ["subspace(k=4)", "subspace(k=12) | int8", "sketch(rows=4, ratio=2, decode=mmse)"])
def test_a_calibrated_codec_loses_no_more_of_turned_states(h1):
    """It is calibrated on what passes, which is turned: one for plain states would hide what a run shows."""
    values, cut = states(200, 1), cut_of(h1, "blind")
    turns = cut.turns(KEY)
    assert turns is not None
    plain = (cut.coded(values) - values).norm()
    turned = (cut.protect(values, KEY) - turns(0).hide(values)).norm()
    assert float(turned) < 1.15 * float(plain)


def test_an_edge_that_is_told_the_key_has_the_states_back():
    values = states(200, 1)
    torch.testing.assert_close(cut_of("none", "keyed").protect(values, KEY), values, atol=1e-4, rtol=0)
    assert (cut_of("none", "blind").protect(values, KEY) - values).abs().max() > 1


@pytest.mark.parametrize(("h1", "public"), [("subspace(k=4)", False), ("subspace(k=4)", True), ("int4", False)])
def test_what_is_sent_first_is_in_the_plain_form_unless_calibration_is_public(h1, public):
    values = states(200, 1)
    cut = Cut(spec=spec_of(h1, public_calibration=public), public=states(500, 0), begins=True)
    lost = float((cut.coded(values) - values).norm() / values.norm())
    later = replace(cut, begins=False).coded(values)
    assert cut.begins_plain is (h1 != "int4" and not public)
    assert (lost < 0.01) is cut.begins_plain
    assert torch.equal(cut.coded(values), later) is not cut.begins_plain
