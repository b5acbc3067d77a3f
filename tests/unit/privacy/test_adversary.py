"""The adversary's loss is bounded, teaches the bottom alone, and its inverter does invert what can be inverted."""

import pytest
import torch

from elsa.errors import MalformedError
from elsa.privacy.adversary import Adversary
from elsa.protection import AdversarySpec

WIDTH, VOCABULARY = 16, 200
EMBEDDINGS = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(0))


def adversary(weight=0.5, seed=0):
    return Adversary(AdversarySpec(weight=weight, width=64), WIDTH, EMBEDDINGS, seed)


def batch(seed, tokens=64):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (tokens,), generator=draw)


def test_loss_is_within_zero_and_weight_from_chance_to_certainty():
    one = adversary(weight=0.5)
    found = []
    for step in range(150):
        ids = batch(step)
        found.append(float(one.loss(EMBEDDINGS[ids], ids)))
    assert min(found) >= 0
    assert max(found) <= 0.5
    assert found[-1] > 0.3 > found[0]  # plain embeddings are easily read
    assert one.accuracy(EMBEDDINGS[batch(999)], batch(999)) > 0.95


def test_a_state_that_says_nothing_adds_nothing():
    one = adversary()
    constant = torch.ones(64, WIDTH)
    for step in range(50):
        value = float(one.loss(constant, batch(step)))
    assert value < 0.1 * 0.5, value


def test_the_gradient_reaches_the_states_and_never_the_inverter():
    one = adversary()
    ids = batch(1)
    for step in range(20):
        one.loss(EMBEDDINGS[batch(step)], batch(step))
    states = EMBEDDINGS[ids].clone().requires_grad_()
    loss = one.loss(states, ids)
    for parameter in one._inverter.parameters():
        parameter.grad = None
    loss.backward()
    assert states.grad is not None
    assert float(states.grad.abs().max()) > 0
    assert all(parameter.grad is None for parameter in one._inverter.parameters())


def test_a_bottom_that_minimises_the_loss_weakens_the_inverter():
    one = adversary(weight=1.0)
    bottom = torch.nn.Linear(WIDTH, WIDTH)
    with torch.no_grad():
        bottom.weight.copy_(torch.eye(WIDTH))
        bottom.bias.zero_()
    for step in range(100):
        one.loss(bottom(EMBEDDINGS[batch(step)]).detach(), batch(step))
    before = one.accuracy(bottom(EMBEDDINGS[batch(999)]), batch(999))
    optimizer = torch.optim.Adam(bottom.parameters(), lr=0.02)
    for step in range(200):
        optimizer.zero_grad()
        ids = batch(step)
        one.loss(bottom(EMBEDDINGS[ids]), ids).backward()
        optimizer.step()
    assert before > 0.9
    assert one.accuracy(bottom(EMBEDDINGS[batch(999)]), batch(999)) < before - 0.1


def test_the_same_seed_gives_the_same_losses_and_the_global_generator_is_left_alone():
    torch.manual_seed(3)
    here = torch.random.get_rng_state()
    runs = []
    for _ in range(2):
        one = adversary(seed=4)
        runs.append([float(one.loss(EMBEDDINGS[batch(step)], batch(step))) for step in range(5)])
    assert runs[0] == runs[1]
    assert torch.equal(here, torch.random.get_rng_state())


def test_ids_that_do_not_fit_are_refused():
    with pytest.raises(MalformedError, match="3 ids for 4 activations"):
        adversary().loss(torch.zeros(4, WIDTH), torch.zeros(3, dtype=torch.int64))


def test_special_tokens_are_neither_read_nor_hidden():
    special = (3, 7)
    one = Adversary(AdversarySpec(weight=1.0, width=64), WIDTH, EMBEDDINGS, 0, special)
    other = adversary(weight=1.0)
    plain = torch.tensor([5, 6, 9] * 10)
    mixed = torch.cat([plain, torch.tensor([3, 7, 3])])
    for _ in range(20):
        mixed_states = EMBEDDINGS[mixed].clone().requires_grad_()
        both = one.loss(mixed_states, mixed), other.loss(EMBEDDINGS[plain], plain)
        assert both[0].item() == pytest.approx(both[1].item(), abs=1e-6)
    both[0].backward()
    assert float(mixed_states.grad[-3:].abs().max()) == 0 < float(mixed_states.grad[:-3].abs().max())
    alone = EMBEDDINGS[[3, 7]].clone().requires_grad_()
    lone = one.loss(alone, torch.tensor([3, 7]))
    lone.backward()
    assert lone.item() == 0
