"""A client's noise comes of more randomness than an edge can try."""

from itertools import combinations

import torch

from elsa.spec import DataSpec, RunSpec
from services.client import protection


def test_noise_follows_from_each_word_of_a_key_of_256_bits(monkeypatch):
    spec = RunSpec(preset="none", data=DataSpec(labels=("a", "b")), privacy={"noise": {"multiplier": 0.5}})
    probes = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    keys = [bytes(32), *(bytes(4 * word) + b"\1" + bytes(31 - 4 * word) for word in range(8))]
    drawn = []
    for key in keys:
        monkeypatch.setattr(protection.secrets, "token_bytes", lambda count, key=key: key[:count])
        monkeypatch.setattr(protection.secrets, "randbits", lambda bits, key=key: int.from_bytes(key[:8], "little"))
        blur = protection.Protection(spec, None, probes, None).blur
        assert blur is not None
        drawn.append(blur(probes))
    assert not any(torch.equal(one, other) for one, other in combinations(drawn, 2))
