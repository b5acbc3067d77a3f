"""What a run asks for and its model cannot give is refused with the field and the bound."""

import pytest

from elsa.errors import SpecError
from elsa.spec import RunSpec
from elsa.train.fitting import check_fits

DATA = {"name": "words", "labels": ["a", "b"]}


def spec_of(**parts):
    return RunSpec.from_yaml(RunSpec.model_validate({"preset": "none", "data": DATA, **parts}).to_yaml())


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"codecs": {"h1": "subspace(k=65)"}}, "codecs.h1.subspace.k: 65 is more than the 64 columns"),
        ({"codecs": {"dh2": "subspace(k=3) | int4"}}, "codecs.dh2.*int4 needs an even number of columns; here are 3"),
        ({"codecs": {"h2": "sketch(rows=3, ratio=64)"}}, "codecs.h2.sketch.ratio: 64.0 leaves no bucket"),
        ({"codecs": {"change": "subspace(k=999)"}}, "codecs.change.subspace.k: 999"),
        ({"privacy": {"ssop": {"rank": 65}}}, "privacy.ssop.rank: 65 is more than the model's width of 64"),
    ],
)
def test_what_a_width_cannot_hold_is_refused(parts, says):
    with pytest.raises(SpecError, match=says):
        check_fits(spec_of(**parts), 64)


@pytest.mark.parametrize("preset", ["default", "thrifty", "private", "paper", "none"])
@pytest.mark.parametrize("width", [64, 384, 2048])
def test_presets_fit_widths_of_real_models(preset, width):
    check_fits(spec_of(preset=preset), width)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"codecs": {"h1": "subspace(ratio=0.5)"}}, "codecs.h1.*ratio.*greater than or equal to 1"),
        ({"codecs": {"h1": "sketch(rows=0)"}}, "codecs.h1.*rows.*greater than or equal to 1"),
        ({"codecs": {"h1": "zip"}}, "codecs.h1.*no codec 'zip'; there are none, bf16"),
        ({"privacy": {"ssop": {"rank": 4}, "public_calibration": True}}, "public_calibration: with ssop"),
    ],
)
def test_what_no_model_can_give_is_refused_when_a_run_is_submitted(parts, says):
    raw = {"preset": "none", "data": DATA, **parts}
    import yaml

    with pytest.raises(SpecError, match=says):
        RunSpec.from_yaml(yaml.safe_dump(raw))
