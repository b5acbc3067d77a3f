"""How many blocks a demo's clients keep: as told, and what is not told as the preset says."""

import pytest

from services.testbed.settings import DemoSettings


@pytest.mark.parametrize(
    ("given", "ends"),
    [({}, (5, 0)), ({"bottom": 2}, (2, 0)), ({"top": 1}, (5, 1)), ({"bottom": 2, "top": 1}, (2, 1))],
)
def test_an_end_that_is_not_told_is_the_presets(given, ends):
    split = DemoSettings(preset="private", **given).run_spec(("a", "b")).split
    assert (split.bottom, split.top) == ends
