"""Protection and reuse: settings that cannot hold together are refused with what to change."""

import pytest

from elsa.errors import SpecError
from elsa.spec import RunSpec

NOISE = "noise: {clip: 1, multiplier: 1}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("privacy: {ssop: {renew: step}}", "spec: privacy.ssop: renew: with edge: blind"),
        ("privacy: {ssop: {edge: deaf}}", "privacy.ssop.edge: Input should be 'keyed' or 'blind' (got 'deaf')"),
        ("privacy: {ssop: {key: cluster}}", "privacy.ssop.key: Input should be 'run' or 'client' (got 'cluster')"),
        ("privacy: {noise: {clip: 1}}", "privacy.noise.multiplier: missing; it has no default"),
        ("reuse: {enabled: true}\ntraining: {dropout: true}", "spec: reuse.enabled: dropout makes"),
        (f"reuse: {{enabled: true}}\nprivacy: {{{NOISE}}}", "spec: reuse.enabled: rows that are kept"),
        (
            "reuse: {enabled: true}\nprivacy: {ssop: {edge: keyed, renew: round}}",
            "spec: reuse.enabled: kept rows need a key that lasts; set privacy.ssop.renew: run",
        ),
        (
            "privacy: {adversary: {}}\nlora: {bottom_adapters: false}",
            "spec: privacy.adversary: trains the bottom; set lora.bottom_adapters: true",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_remedy(text, said):
    with pytest.raises(SpecError) as caught:
        RunSpec.from_yaml("data: {labels: [a, b]}\n" + text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value) and "Value error" not in str(caught.value)


@pytest.mark.parametrize("renew", ["run", "round", "step"])
def test_a_key_that_the_edge_knows_may_be_renewed_at_any_time(renew):
    spec = RunSpec.from_yaml(f"data: {{labels: [a, b]}}\nprivacy: {{ssop: {{edge: keyed, renew: {renew}}}}}")
    assert spec.privacy.ssop is not None and spec.privacy.ssop.renew == renew
    assert RunSpec.from_yaml(spec.to_yaml()) == spec


@pytest.mark.parametrize(
    "privacy", [NOISE, "adversary: {}", "ssop: {}", f"ssop: {{}}, {NOISE}, adversary: {{width: 8}}"]
)
def test_yaml_reads_back_to_an_equal_spec_with_every_protection(privacy):
    spec = RunSpec.from_yaml(f"data: {{labels: [a, b]}}\npreset: none\nprivacy: {{{privacy}}}")
    assert RunSpec.from_yaml(spec.to_yaml()) == spec
    assert all(getattr(spec.privacy, name) is not None for name in ("ssop", "noise", "adversary") if name in privacy)


def test_protection_and_reuse_are_off_unless_asked_for():
    spec = RunSpec.from_yaml("data: {labels: [a, b]}")
    assert spec.privacy.ssop is spec.privacy.noise is spec.privacy.adversary is None
    assert not spec.reuse.enabled
