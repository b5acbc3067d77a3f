"""Laws of the narrowing stages: subspace, sketch and topk, each against its definition."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elsa.codecs import parse_codec
from elsa.errors import MalformedError, SpecError
from elsa.v1 import tensor_pb2 as pb
from elsa.wire.codec.hashes import Hashing, splitmix64
from elsa.wire.codec.moments import Moments
from elsa.wire.codec.registry import codec_of, codec_set_from_proto
from elsa.wire.codec.subspace import leading


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ready(text, values):
    codec, moments = codec_of(parse_codec(text), values.shape[1]), Moments(values.shape[1])
    moments.add(values)
    return codec.calibrated(codec.fit(moments))


def decaying(seed, tokens, width, decades):
    """Values whose variance falls over the directions of a random basis."""
    basis = torch.linalg.qr(random(seed, width, width)).Q
    return random(seed + 1, tokens, width) * torch.logspace(0, -decades, width) @ basis + random(seed + 2, width)


def error(codec, values):
    return float((codec.decode(codec.encode(values)) - values).norm() / (values - values.mean(0)).norm())


@given(st.integers(1, 48), st.integers(0, 99), st.floats(0, 6))
def test_subspace_of_all_directions_is_exact(width, seed, decades):
    values = decaying(seed, 3 * width, width, decades)
    codec = ready(f"subspace(k={width})", values)
    lost = (codec.decode(codec.encode(values)) - values).norm(dim=1)
    assert bool((lost <= 1e-5 * values.norm(dim=1)).all())


@given(st.integers(1, 20), st.integers(0, 99))
def test_subspace_keeps_what_lies_in_its_span(k, seed):
    values = random(seed, 100, k) @ random(seed + 1, k, 40)
    assert error(ready(f"subspace(k={k})", values), values) < 2e-3


def test_subspace_loses_only_the_energy_of_the_directions_left_out():
    values = decaying(0, 4000, 64, 2)
    variances = torch.linalg.eigvalsh(torch.cov(values.T.double(), correction=0))
    for k in (4, 16, 48):
        want = float((variances[:-k].sum() / variances.sum()).sqrt())
        assert error(ready(f"subspace(k={k})", values), values) == pytest.approx(want, rel=0.01)


def test_turned_coordinates_lower_the_error_of_int4_by_a_third():
    values = decaying(0, 2000, 64, 1) + 20 * random(5, 2000, 1) * torch.nn.functional.normalize(random(6, 64), dim=0)
    codec = ready("subspace(k=64)", values)
    (turned,) = codec.encode(values)
    unturned = (values - values.mean(0)) @ torch.linalg.eigh(torch.cov(values.T)).eigenvectors
    int4 = codec_of(parse_codec("int4"), 64)
    inner = [float((int4.decode(int4.encode(one)) - one).norm()) for one in (turned, unturned)]
    assert inner[0] < inner[1] * 0.67


def test_subspace_iteration_finds_the_energy_of_the_leading_eigenvectors():
    width, k = 1100, 100
    covariance = torch.cov(decaying(0, 2500, width, 1).T)
    found = leading(covariance, k)
    assert torch.allclose(found.T @ found, torch.eye(k), atol=1e-4)
    most = float(torch.linalg.eigvalsh(covariance)[-k:].sum())
    assert float((found.T @ covariance @ found).trace()) > 0.995 * most


def test_splitmix64_gives_its_published_numbers():
    numbers = splitmix64(1234567)
    assert [next(numbers) for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def reference(values, mean, *, rows, buckets, seed):
    """The median sketch of docs/codecs.md, in plain Python and NumPy: buckets, and values turned back."""
    word, prime = 2**64, 2**31 - 1
    state, drawn = seed, []
    for _ in range(4 * rows):
        state = (state + 0x9E3779B97F4A7C15) % word
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % word
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % word
        drawn.append((z ^ (z >> 31)) % prime)
    tokens, width = values.shape
    sketched, estimates = np.zeros((tokens, rows * buckets)), np.zeros((rows, tokens, width))
    for y in range(rows):
        a, b, c, d = drawn[4 * y : 4 * y + 4]
        places = [y * buckets + (a * i + b) % prime % buckets for i in range(width)]
        signs = [1 - 2 * ((c * i + d) % prime % 2) for i in range(width)]
        for i in range(width):
            sketched[:, places[i]] += signs[i] * (values[:, i] - mean[i])
        for i in range(width):
            estimates[y, :, i] = signs[i] * sketched[:, places[i]]
    return sketched, mean + np.median(estimates, axis=0)


@given(st.integers(1, 6), st.integers(1, 3), st.integers(0, 2**63 - 1))
def test_median_sketch_equals_its_reference(rows, ratio, seed):
    values = random(7, 5, 48) + 2
    codec = codec_of(parse_codec(f"sketch(rows={rows}, ratio={ratio}, seed={seed})"), 48)
    mean = values.mean(0).half()
    codec = codec.calibrated([mean])
    buckets = 48 // (rows * ratio)
    sketched, decoded = reference(values.numpy(), mean.float().numpy(), rows=rows, buckets=buckets, seed=seed)
    (got,) = codec.encode(values)
    np.testing.assert_allclose(got.numpy(), sketched, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(codec.decode([got]).numpy(), decoded, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("decode", ["median", "mmse"])
@given(seed=st.integers(0, 2**63 - 1), factor=st.floats(-9, 9, width=32))
def test_a_sketch_of_centred_values_is_linear(decode, seed, factor):
    codec, moments = codec_of(parse_codec(f"sketch(seed={seed}, decode={decode})"), 24), Moments(24, centred=False)
    moments.add(random(9, 40, 24))
    codec = codec.calibrated(codec.fit(moments))
    x, y = random(1, 3, 24), random(2, 3, 24)
    together = codec.encode(x + factor * y)[0]
    assert torch.allclose(together, codec.encode(x)[0] + factor * codec.encode(y)[0], atol=1e-4)


def test_a_row_of_a_sketch_is_unbiased_over_seeds():
    values, width, seeds = random(1, 1, 16), 16, 4000
    estimates = torch.stack([_one_row(values, width, seed) for seed in range(seeds)])
    error_of_mean = float(values.norm()) / (4 * seeds) ** 0.5  # a bucket takes a quarter of the other columns
    assert float((estimates.mean(0) - values).abs().max()) < 4.5 * error_of_mean


def _one_row(values, width, seed):
    hashing = Hashing(width=width, rows=1, buckets=4, seed=seed)
    return hashing.estimates(hashing.sketch(values))[:, 0]


def test_two_columns_share_a_bucket_and_a_sign_as_often_as_independent_ones():
    hashes = [Hashing(width=9, rows=2, buckets=4, seed=seed) for seed in range(2000)]
    one = torch.eye(9)
    products = torch.stack([hashing.sketch(one).view(9, 2, 4).transpose(0, 1) for hashing in hashes])
    collide = (products[:, :, 0].abs() * products[:, :, 5].abs()).sum(-1)
    assert float(collide.mean()) == pytest.approx(1 / 4, abs=0.03)
    assert float((products[:, :, 0].sum(-1) * products[:, :, 5].sum(-1)).mean()) == pytest.approx(0, abs=0.06)


def test_mmse_decoding_errs_least_where_values_have_structure():
    values = decaying(0, 4000, 96, 2)
    errors = [error(ready(f"sketch(ratio=2, decode={decode})", values), values) for decode in ("median", "mmse")]
    assert errors[1] < errors[0] / 4


def test_mmse_decoder_solves_the_normal_equations():
    values = decaying(0, 4000, 48, 1)
    moments = Moments(48)
    moments.add(values)
    codec = codec_of(parse_codec("sketch(ratio=2, decode=mmse)"), 48)
    decoder = codec.fit(moments)[1].double()
    sketch = Hashing(width=48, rows=3, buckets=8, seed=0).sketch(torch.eye(48, dtype=torch.float64))
    inside = sketch.T @ moments.covariance @ sketch
    inside += 1e-3 * inside.diagonal().mean() * torch.eye(24)
    want = torch.linalg.inv(inside) @ sketch.T @ moments.covariance
    assert torch.allclose(decoder, want, atol=2e-3)


@given(st.integers(1, 80), st.floats(0.01, 1), st.integers(0, 99))
def test_topk_keeps_the_largest_and_nothing_else(width, fraction, seed):
    values = random(seed, 4, width)
    codec = codec_of(parse_codec(f"topk(fraction={fraction})"), width)
    got = codec.decode(codec.encode(values))
    kept = got != 0
    assert torch.equal(got[kept], values[kept])
    assert bool((kept.sum(1) == int(np.ceil(fraction * width))).all())
    assert bool((values.abs().masked_fill(~kept, 9).amin(1) >= values.abs().masked_fill(kept, 0).amax(1)).all())


@pytest.mark.parametrize(
    ("fraction", "places"),
    [
        (0.05, [[0, 0, 0, 0, 0, 0, 0, 0, 0]]),
        (0.05, [[255, 0, 0, 0, 0, 0, 0, 0, 0]]),
        (0.05, [[0, 0, 0, 0, 0, 0, 0, 0, 240]]),
        (0.02, [[0, 0]]),
        (0.02, [[5, 3]]),
        (0.02, [[3, 70]]),
        (0.02, [[-1, 3]]),
    ],
)
def test_places_that_no_sender_gives_are_refused(fraction, places):
    codec = codec_of(parse_codec(f"topk(fraction={fraction})"), 70)
    layout = codec.layout(1)[0]
    side = torch.tensor(places, dtype=layout.dtype)
    assert tuple(side.shape) == layout.shape
    with pytest.raises(MalformedError, match="places: a token"):
        codec.decode([side, torch.ones(codec.layout(1)[1].shape)])


@pytest.mark.parametrize(
    ("text", "width", "fault"),
    [
        ("sketch(rows=3, ratio=200)", 384, r"codec\.sketch\.ratio: 200.0 leaves no bucket .* at most 384"),
        ("sketch(rows=3, ratio=100) | int4", 384, r"codec\.sketch\.ratio: 100.0 .* rows x ratio may be at most 192"),
        ("sketch(rows=16, ratio=1)", 8, r"codec\.sketch\.ratio: 1.0 leaves no bucket for each of 16 rows"),
    ],
)
def test_a_sketch_that_does_not_fit_the_width_is_refused(text, width, fault):
    with pytest.raises(SpecError, match=fault):
        codec_of(parse_codec(text), width)


@pytest.mark.parametrize(
    ("text", "width", "resolved"),
    [
        ("sketch(rows=3, ratio=2)", 384, "sketch(rows=3, buckets=64, decode=median, seed=0)"),
        ("sketch(seed=5, decode=mmse) | int8", 100, "sketch(rows=3, buckets=16, decode=mmse, seed=5) | int8"),
        ("sketch(rows=3, ratio=2) | int4", 30, "sketch(rows=3, buckets=4, decode=median, seed=0) | int4"),
        ("topk(fraction=0.1)", 384, "topk(kept=39)"),
        ("topk(fraction=0.1) | int4", 384, "topk(kept=40) | int4"),
        ("topk(fraction=1) | int4", 7, "topk(kept=6) | int4"),
        ("subspace(k=9) | topk(fraction=0.5) | int4", 384, "subspace(k=9) | topk(kept=6) | int4"),
    ],
)
def test_sizes_follow_from_the_width(text, width, resolved):
    assert codec_of(parse_codec(text), width).text == resolved


def sketch(**given):
    values = {"rows": 2, "buckets": 3, "decode": pb.SKETCH_DECODE_MEDIAN} | given
    return pb.CodecStage(sketch=pb.SketchCodec(**values))


@pytest.mark.parametrize(
    ("stage", "fault"),
    [
        (sketch(rows=0), r"stages\[0\]\.sketch\.rows: 0, must be 1 to 16"),
        (sketch(rows=17), r"stages\[0\]\.sketch\.rows: 17, must be 1 to 16"),
        (sketch(rows=9), r"stages\[0\]\.sketch\.rows: 9, may not exceed the 8 columns"),
        (sketch(buckets=0), r"stages\[0\]\.sketch\.buckets: 0, must be 1 to 4"),
        (sketch(buckets=5), r"stages\[0\]\.sketch\.buckets: 5, must be 1 to 4"),
        (sketch(decode=0), r"stages\[0\]\.sketch\.decode: 0, must be median \(1\) or mmse \(2\)"),
        (sketch(decode=7), r"stages\[0\]\.sketch\.decode: 7, must be"),
        (pb.CodecStage(topk=pb.TopKCodec(kept=0)), r"stages\[0\]\.topk\.kept: 0, must be 1 to 8"),
        (pb.CodecStage(topk=pb.TopKCodec(kept=9)), r"stages\[0\]\.topk\.kept: 9, must be 1 to 8"),
    ],
)
def test_a_stage_out_of_bounds_is_refused(stage, fault):
    with pytest.raises(MalformedError, match=rf"codecs\.dh1\.{fault}"):
        codec_set_from_proto(pb.CodecSet(dh1=pb.CodecSpec(stages=[stage])), 8)
