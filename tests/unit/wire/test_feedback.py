"""What a codec leaves out of a row comes with the row's next values: the sums differ by one remainder."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elsa.codecs import parse_codec
from elsa.wire.codec.registry import codec_of
from elsa.wire.feedback import Feedback

WIDTH = 12
TOPK = codec_of(parse_codec("topk(fraction=0.25)"), WIDTH)


def draw(tokens, seed):
    return torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4, unique=True), min_size=1, max_size=15))
def test_sums_of_what_was_sent_and_arrived_differ_by_the_last_remainder(messages):
    feedback = Feedback()
    sent, arrived, left = ({row: torch.zeros(row + 1, WIDTH) for row in range(5)} for _ in range(3))
    for seed, numbers in enumerate(messages):
        rows = [(number, number + 1) for number in numbers]
        values = draw(sum(tokens for _, tokens in rows), seed)
        fed = feedback.added(values, rows)
        there = TOPK.decode(TOPK.encode(fed))
        feedback.keep(fed - there, rows)
        cut = [torch.split(each, [tokens for _, tokens in rows]) for each in (values, there, fed - there)]
        for (number, _), own, got, rest in zip(rows, *cut, strict=True):
            sent[number] += own
            arrived[number] += got
            left[number] = rest
    for row in range(5):
        torch.testing.assert_close(sent[row] - arrived[row], left[row], rtol=0, atol=1e-4)


def test_the_remainder_stays_bounded():
    feedback, norms = Feedback(), []
    for seed in range(200):
        fed = feedback.added(draw(2, seed), [(3, 2)])
        left = fed - TOPK.decode(TOPK.encode(fed))
        feedback.keep(left, [(3, 2)])
        norms.append(float(left.norm()))
    assert max(norms[100:]) < 2 * max(norms[20:100])


def test_rows_seen_longest_ago_are_forgotten_beyond_the_room():
    size = 4 * WIDTH
    feedback = Feedback(most_bytes=3 * size)
    for number in range(5):
        feedback.keep(draw(1, number), [(number, 1)])
    zero = torch.zeros(5, WIDTH)
    got = feedback.added(zero, [(number, 1) for number in range(5)])
    assert torch.equal(got, torch.cat([torch.zeros(2, WIDTH), *(draw(1, number) for number in (2, 3, 4))]))
    assert feedback._bytes == 0


def test_what_is_kept_does_not_hold_its_batch():
    feedback, batch = Feedback(), draw(1000, 0)
    feedback.keep(batch, [(0, 1), (1, 999)])
    assert feedback._left[0].untyped_storage().nbytes() == 4 * WIDTH


def test_a_row_that_has_other_tokens_than_before_starts_anew():
    feedback = Feedback()
    feedback.keep(draw(1, 0), [(0, 1)])
    assert torch.equal(feedback.added(draw(3, 1), [(0, 3)]), draw(3, 1))
