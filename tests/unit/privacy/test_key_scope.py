"""Which runs share a key, which keep every client's trunk apart, and which cuts a blind edge allows."""

import pytest

from elsa.errors import SpecError
from elsa.spec import RunSpec


def spec_of(splits="", **ssop):
    lines = "".join(f"    {name}: {value}\n" for name, value in ssop.items())
    privacy = f"privacy:\n  ssop:\n    rank: 4\n{lines}" if ssop else ""
    return RunSpec.from_yaml(f"preset: none\ndata: {{labels: [a, b]}}\n{privacy}{splits}")


@pytest.mark.parametrize(
    ("ssop", "shares", "keeps"),
    [
        ({}, False, False),
        ({"edge": "blind", "key": "run"}, True, False),
        ({"edge": "blind", "key": "client"}, False, True),
        ({"edge": "keyed", "key": "run"}, False, False),
        ({"edge": "keyed", "key": "client"}, False, False),
    ],
)
def test_only_blind_runs_share_a_key_or_keep_trunks_apart(ssop, shares, keeps):
    privacy = spec_of(**ssop).privacy
    assert (privacy.shares_key, privacy.keeps_trunks) == (shares, keeps)


OTHER_CUT = "splits: {ann: {bottom: 2, top: 1}}\n"


@pytest.mark.parametrize("key", ["run", "client"])
def test_a_blind_run_refuses_a_client_with_another_split(key):
    with pytest.raises(SpecError, match=r"splits\.ann: differs from split"):
        spec_of(OTHER_CUT, edge="blind", key=key)
    assert spec_of(OTHER_CUT.replace("2", "1"), edge="blind", key=key).splits


def test_other_runs_take_any_split():
    assert spec_of(OTHER_CUT).splits and spec_of(OTHER_CUT, edge="keyed").splits


@pytest.mark.parametrize("tensor", ["dh2", "dh1"])
@pytest.mark.parametrize("renew", ["round", "step"])
def test_errors_are_not_fed_back_over_keys_that_are_renewed(tensor, renew):
    """What was left out under one key would be added under another, in other coordinates."""
    codec = f"codecs: {{{tensor}: 'topk(fraction=0.1) | int4'}}\n"
    with pytest.raises(SpecError, match=rf"codecs\.{tensor}: .*renew: run"):
        spec_of(codec, edge="keyed", renew=renew)
    assert spec_of(codec, edge="keyed", renew="run").codecs
    assert spec_of(codec.replace(tensor, "h1"), edge="keyed", renew=renew).codecs
    assert spec_of(codec.replace("topk", "subspace(ratio=2) | topk"), edge="keyed", renew=renew).codecs
