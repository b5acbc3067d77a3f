"""Profiles follow what rounds measured."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.plan.cost import Crew, step_seconds
from elsa.plan.measured import LEAST_S, Measured, client_as_measured, edge_as_measured
from elsa.plan.profile import LEAST_RATE, MOST_RATE, MOST_S, ClientProfile, EdgeProfile, LinkProfile
from elsa.plan.shape import Workload
from elsa.plan.traffic import Traffic
from elsa.spec import Split
from elsa.train.phases import PhaseSeconds

LINK = LinkProfile(latency_ms=4, up_bytes_per_s=1e6, down_bytes_per_s=4e6)
CLIENT = ClientProfile(
    name="c",
    block_s=0.02,
    embeddings_s=0.003,
    head_s=0.005,
    codec_s=0.002,
    memory_bytes=10**9,
    links={"e": LINK, "other": LINK},
)
EDGE = EdgeProfile(name="e", block_s=0.004, crowding_s=0.001, step_s=0.002, memory_bytes=10**9, capacity=4)
FACTORS = st.floats(0.11, 9.9)


def workload(trains_bottom=True):
    traffic = Traffic(h1=100, h2=100, dh2=50, dh1=50)
    return Workload(rows=8, row_tokens=20, longest_row=64, traffic=traffic, trains_bottom=trains_bottom)


def predicted(client, split, work):
    crew = Crew.of([client], "e")
    blocks = {name: np.array([[getattr(split, name)]]) for name in ("bottom", "trunk", "top")}
    made = step_seconds(crew, work, 0.0, 0.0, **blocks)
    return float(made.bottom[0, 0]), float(made.network[0, 0]), float(made.top[0, 0])


def measured(client, split, work, steps=7, computing=1.0, away=1.0):
    bottom, network, top = predicted(client, split, work)
    seconds = PhaseSeconds(
        bottom=steps * computing * bottom, network=steps * away * network, top=steps * computing * top
    )
    return Measured(split=split, steps=steps, seconds=seconds)


@given(computing=FACTORS, away=FACTORS, bottom=st.integers(1, 5), top=st.integers(0, 4), trains=st.booleans())
def test_a_corrected_profile_predicts_what_was_measured(computing, away, bottom, top, trains):
    work, split = workload(trains), Split(bottom=bottom, trunk=2, top=top)
    new = client_as_measured(CLIENT, "e", work, [measured(CLIENT, split, work, computing=computing, away=away)])
    before, after = predicted(CLIENT, split, work), predicted(new, split, work)
    assert after[0] + after[2] == pytest.approx(computing * (before[0] + before[2]))
    assert after[1] == pytest.approx(away * before[1])
    assert new.links["other"] == LINK and new.memory_bytes == CLIENT.memory_bytes


def test_what_was_as_predicted_changes_nothing():
    split = Split(bottom=2, trunk=3, top=1)
    same = client_as_measured(CLIENT, "e", workload(), [measured(CLIENT, split, workload())])
    assert same.block_s == pytest.approx(CLIENT.block_s) and same.links["e"].latency_ms == pytest.approx(4)


@given(factor=FACTORS, sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_a_corrected_edge_predicts_its_clients_trunks_together(factor, sizes):
    block_s = factor * EDGE.block_s_among(len(sizes))
    taken = [PhaseSeconds(trunk=5 * (size * block_s + factor * EDGE.step_s)) for size in sizes]
    splits = [Split(bottom=1, trunk=size, top=1) for size in sizes]
    work = [[Measured(split=cut, steps=5, seconds=own)] for cut, own in zip(splits, taken, strict=True)]
    found = edge_as_measured(EDGE, work)
    assert found.block_s_among(len(sizes)) == pytest.approx(block_s)
    assert found.step_s == pytest.approx(factor * EDGE.step_s)


@pytest.mark.parametrize("seconds", [PhaseSeconds(), PhaseSeconds(bottom=-1, network=-1, top=-1, trunk=-1)])
def test_figures_that_cannot_be_change_nothing(seconds):
    work = Measured(split=Split(bottom=1, trunk=1, top=1), steps=3, seconds=seconds)
    assert client_as_measured(CLIENT, "e", workload(), [work]) == CLIENT
    assert edge_as_measured(EDGE, [[work]]) == EDGE


def test_one_round_changes_a_figure_tenfold_at_most():
    split = Split(bottom=1, trunk=1, top=1)
    work = measured(CLIENT, split, workload(), computing=1e6, away=1e-6)
    new = client_as_measured(CLIENT, "e", workload(), [work])
    assert new.block_s == pytest.approx(10 * CLIENT.block_s)
    assert new.links["e"].latency_ms == pytest.approx(LINK.latency_ms / 10)
    slow = Measured(split=split, steps=1, seconds=PhaseSeconds(trunk=1e9))
    assert edge_as_measured(EDGE, [[slow]]).block_s == pytest.approx(10 * EDGE.block_s)


def test_a_link_that_is_not_known_changes_nothing():
    work = measured(CLIENT, Split(bottom=1, trunk=1, top=1), workload(), computing=3)
    assert client_as_measured(CLIENT, "elsewhere", workload(), [work]) == CLIENT


@given(share=st.floats(0.05, 1), factor=FACTORS)
def test_an_edge_that_knows_no_rows_is_corrected_at_the_rows_that_its_clients_have(share, factor):
    edge = replace(EDGE, quarter_block_s=0.0015, quarter_step_s=0.001)
    here = edge.for_rows(share)
    trunk_s = factor * (3 * here.block_s_among(1) + here.step_s)
    work = Measured(split=Split(bottom=1, trunk=3, top=1), steps=5, seconds=PhaseSeconds(trunk=5 * trunk_s))
    found = edge_as_measured(edge, [[work]], share).for_rows(share)
    assert 3 * found.block_s_among(1) + found.step_s == pytest.approx(trunk_s)


def test_seconds_of_shorter_rows_lie_on_the_line_through_both_figures():
    edge = replace(EDGE, quarter_block_s=0.001, quarter_step_s=0.0005)
    assert edge.for_rows(0.25).step_s == pytest.approx(0.0005) and edge.for_rows(1.0).step_s == pytest.approx(0.002)
    assert edge.for_rows(1.0).block_s == pytest.approx(0.004)
    assert edge.for_rows(0.25).block_s == pytest.approx(0.001)
    assert edge.for_rows(0.625).block_s == pytest.approx(0.0025)
    assert edge.for_rows(0.01).block_s > 0
    assert replace(edge, quarter_block_s=0.005).for_rows(0.5).block_s == pytest.approx(
        0.004
    )  # never faster by length
    assert EDGE.for_rows(0.1) is EDGE


@given(claimed=st.floats(1e-6, 1e9), honest=st.lists(st.floats(0.9, 1.1), min_size=3, max_size=6))
def test_one_client_of_several_moves_no_edge_further_than_the_others_do(claimed, honest):
    """And however often it tells it: the median is over clients, each of them with its own median."""
    split = Split(bottom=1, trunk=2, top=1)
    expected = 5 * (2 * EDGE.block_s_among(len(honest) + 1) + EDGE.step_s)
    told = [[Measured(split=split, steps=5, seconds=PhaseSeconds(trunk=f * expected))] for f in honest]
    liar = [Measured(split=split, steps=5, seconds=PhaseSeconds(trunk=claimed))] * 9
    new = edge_as_measured(EDGE, [*told, liar])
    assert 0.9 * (1 - 1e-9) <= new.block_s / EDGE.block_s <= 1.1 * (1 + 1e-9)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_one_edge_round_of_three_that_went_wrong_changes_no_client(at):
    split = Split(bottom=2, trunk=2, top=1)
    work = [measured(CLIENT, split, workload(), computing=2, away=3) for _ in range(3)]
    work[at] = measured(CLIENT, split, workload(), computing=9, away=0.2)
    new = client_as_measured(CLIENT, "e", workload(), work)
    assert new.block_s == pytest.approx(2 * CLIENT.block_s)
    assert new.links["e"].up_bytes_per_s == pytest.approx(LINK.up_bytes_per_s / 3)


def test_a_client_of_which_nothing_is_known_does_not_hold_an_edge_where_it_was():
    split = Split(bottom=1, trunk=1, top=1)
    slow = Measured(split=split, steps=1, seconds=PhaseSeconds(trunk=3 * (EDGE.block_s_among(3) + EDGE.step_s)))
    silent = Measured(split=split, steps=1, seconds=PhaseSeconds())
    assert edge_as_measured(EDGE, [[slow], [silent], [silent]]).block_s == pytest.approx(3 * EDGE.block_s)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_figures_stay_within_a_profile_s_bounds_however_long_they_are_pushed(factor):
    client, edge, split = CLIENT, replace(EDGE, quarter_block_s=0.001), Split(bottom=1, trunk=1, top=1)
    for _ in range(40):
        client = client_as_measured(
            client, "e", workload(), [measured(client, split, workload(), computing=factor, away=factor)]
        )
        trunk_s = factor * (edge.block_s_among(1) + edge.step_s)
        edge = edge_as_measured(edge, [[Measured(split=split, steps=1, seconds=PhaseSeconds(trunk=trunk_s))]])
    assert client.block_s in (LEAST_S, MOST_S) and edge.block_s in (LEAST_S, MOST_S)
    assert client.links["e"].up_bytes_per_s in (LEAST_RATE, MOST_RATE)


def test_an_edge_is_reckoned_at_the_length_to_which_rows_are_padded():
    rows = {"rows": 8, "row_tokens": 16, "longest_row": 64, "traffic": Traffic(h1=1, h2=1, dh2=1, dh1=1)}
    assert Workload(**rows).row_share == 0.25
    assert Workload(**rows, padded_tokens=32).row_share == 0.5
