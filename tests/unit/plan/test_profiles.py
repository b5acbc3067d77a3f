"""Laws of profiles: a figure that cannot be one names its device and field, and spoils that device alone."""

import json
import math
import re
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned_fleets import client_of, edge_of, model_of, problem_of

from elsa.errors import SpecError
from elsa.plan.planner import plan
from elsa.plan.profile import LinkProfile
from elsa.plan.profile_file import Profiles, profiles_from_json, profiles_to_json

BAD = (math.nan, math.inf, -math.inf, -1)
NAMES = st.from_regex(r"\A[a-z][a-z0-9-]{0,8}\Z")
SECONDS = st.floats(1e-9, 1e6)
RATES = st.floats(1, 1e12)
BYTES = st.integers(1, 2**50)


def link(**figures):
    return {"edge-1": LinkProfile(**{"latency_ms": 1, "up_bytes_per_s": 1e6, "down_bytes_per_s": 1e6, **figures})}


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("field", ["block_s", "embeddings_s", "head_s", "memory_bytes", "max_bottom"])
def test_a_figure_of_a_client_that_cannot_be_one_is_named(field, value):
    with pytest.raises(SpecError, match=f"^client client-1: {field} is {value:g}; it must be"):
        client_of(**{field: value})


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("field", ["latency_ms", "up_bytes_per_s", "down_bytes_per_s"])
def test_a_figure_of_a_link_that_cannot_be_one_is_named(field, value):
    with pytest.raises(SpecError, match=rf"^client client-1: links\.edge-1\.{field} is {value:g}; it must be"):
        client_of(links=link(**{field: value}))


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("field", ["block_s", "crowding_s", "memory_bytes", "capacity"])
def test_a_figure_of_an_edge_that_cannot_be_one_is_named(field, value):
    with pytest.raises(SpecError, match=f"^edge edge-1: {field} is {value:g}; it must be"):
        edge_of(**{field: value})


@pytest.mark.parametrize("field", ["block_s", "memory_bytes", "max_bottom"])
def test_a_client_that_takes_nothing_is_refused(field):
    with pytest.raises(SpecError, match=f"{field} is 0"):
        client_of(**{field: 0})


def test_a_link_without_throughput_is_refused_and_one_without_latency_is_not():
    with pytest.raises(SpecError, match="up_bytes_per_s is 0"):
        client_of(links=link(up_bytes_per_s=0))
    assert client_of(links=link(latency_ms=0)).links["edge-1"].latency_ms == 0


@pytest.mark.parametrize(
    "figures",
    [
        {"up_bytes_per_s": 1e-305},
        {"down_bytes_per_s": 0.99},
        {"up_bytes_per_s": 1.01e12},
        {"latency_ms": 1.01e7},
    ],
)
def test_a_link_too_slow_or_too_fast_to_be_one_is_named(figures):
    ((field, value),) = figures.items()
    with pytest.raises(SpecError, match=re.escape(f"client client-1: links.edge-1.{field} is {value:g}; it must")):
        client_of(links=link(**figures))
    assert client_of(links=link(latency_ms=1e7, up_bytes_per_s=1, down_bytes_per_s=1e12)).links


def test_numbers_beyond_all_floats_are_refused():
    with pytest.raises(SpecError, match=r"memory_bytes is beyond 2\^63"):
        client_of(memory_bytes=10**400)


def test_blocks_at_an_edge_grow_slower_with_each_further_session():
    edge = edge_of(block_s=1.0, crowding_s=0.25)
    assert [edge.block_s_among(sessions) for sessions in (1, 2, 5)] == [1.0, 1.25, 2.0]


@st.composite
def fleets(draw):
    edges = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    clients = draw(st.lists(NAMES, max_size=4, unique=True))
    links = st.builds(LinkProfile, latency_ms=SECONDS, up_bytes_per_s=RATES, down_bytes_per_s=RATES)
    made = tuple(
        client_of(
            name,
            block_s=draw(SECONDS),
            memory_bytes=draw(BYTES),
            max_bottom=draw(st.none() | st.integers(1, 99)),
            links=draw(st.dictionaries(st.sampled_from(edges), links)),
        )
        for name in sorted(clients)
    )
    servers = tuple(
        edge_of(name, block_s=draw(SECONDS), crowding_s=draw(SECONDS), memory_bytes=draw(BYTES))
        for name in sorted(edges)
    )
    homes = {name: draw(st.sampled_from(edges)) for name in clients if draw(st.booleans())}
    model = draw(st.none() | st.builds(model_of, blocks=st.integers(2, 1000), width=st.integers(1, 3000)))
    row_tokens = draw(st.none() | st.floats(0.5, 1e6))
    return Profiles(clients=made, edges=servers, homes=homes, model=model, row_tokens=row_tokens)


@settings(deadline=None, max_examples=50)
@given(fleets())
def test_reading_a_profile_file_inverts_writing_it(profiles):
    assert profiles_from_json(profiles_to_json(profiles), "profiles.json") == profiles


LINK = {"latency_ms": 8, "up_bytes_per_s": 2e6, "down_bytes_per_s": 2e7}
CLIENT = {"edge": "edge-1", "block_s": 0.02, "memory_bytes": 2e9, "links": {"edge-1": LINK}}
EDGE = {"block_s": 0.004, "memory_bytes": 8e9, "capacity": 8}


def written(clients, edges=None):
    return json.dumps({"clients": clients, "edges": edges or {"edge-1": EDGE}})


def test_what_may_be_left_out_has_a_default():
    profiles = profiles_from_json(written({"a": CLIENT}), "profiles.json")
    (client,), (edge,) = profiles.clients, profiles.edges
    assert (client.embeddings_s, client.head_s, client.max_bottom, edge.crowding_s) == (0, 0, None, 0)
    assert (client.memory_bytes, profiles.homes, profiles.faults) == (2_000_000_000, {"a": "edge-1"}, ())


@pytest.mark.parametrize(
    ("faulty", "said"),
    [
        ({"block_s": math.nan}, "block_s"),
        ({"block_s": -1}, "block_s is -1"),
        ({"memory_bytes": 1.5}, "memory_bytes"),
        ({"memory_bytes": math.inf}, "memory_bytes"),
        ({"block_seconds": 1}, "block_seconds: unknown field"),
        ({"links": {"edge-1": {**LINK, "latency_ms": None}}}, "links.edge-1.latency_ms"),
        ({"links": {"edge-1": {**LINK, "up_bytes_per_s": 0}}}, "links.edge-1.up_bytes_per_s is 0"),
    ],
)
def test_a_faulty_device_in_a_file_is_told_and_the_others_are_planned(faulty, said):
    profiles = profiles_from_json(written({"a": CLIENT, "b": {**CLIENT, **faulty}}), "profiles.json")
    (fault,) = profiles.faults
    assert (fault.role, fault.name) == ("client", "b") and said in fault.reason
    made = plan(problem_of(profiles.clients, profiles.edges, homes=profiles.homes, faults=profiles.faults))
    assert list(made.clients) == ["a"] and fault in made.refused


@pytest.mark.parametrize("device", [None, 3, [], "x", {}])
def test_a_device_that_is_no_object_of_figures_is_told(device):
    profiles = profiles_from_json(written({"a": CLIENT, "b": device}, {"edge-1": EDGE, "edge-2": device}), "p")
    assert [(one.role, one.name) for one in profiles.faults] == [("edge", "edge-2"), ("client", "b")]


def test_a_name_that_no_device_can_have_is_told():
    profiles = profiles_from_json(written({"a b": CLIENT, "": CLIENT}), "profiles.json")
    assert [one.name for one in profiles.faults] == ["", "a b"] and "name" in profiles.faults[0].reason


MODEL = {key: value for key, value in asdict(model_of()).items() if key != "head_adapter"}


def test_a_file_may_say_the_model_and_the_rows():
    text = json.dumps({"clients": {}, "edges": {}, "model": MODEL, "row_tokens": 21.5})
    profiles = profiles_from_json(text, "profiles.json")
    assert profiles == Profiles(model=model_of(head_adapter=0), row_tokens=21.5)
    assert (profiles_from_json(written({}), "p").model, profiles_from_json(written({}), "p").row_tokens) == (
        None,
        None,
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"model": {**MODEL, "blocks": 1}}, "model: 1 blocks"),
        ({"model": {**MODEL, "width": 0}}, "model: width is 0"),
        ({"model": {**MODEL, "block_activations": 0}}, "model: block_activations is 0"),
        ({"model": {**MODEL, "embedding_weights": 7}}, "model: embedding_weights is 7"),
        ({"model": {**MODEL, "layers": 6}}, "model.layers: unknown field"),
        ({"model": {"blocks": 6}}, "model.width: missing"),
        ({"row_tokens": 0}, "row_tokens"),
        ({"row_tokens": math.nan}, "row_tokens"),
        ({"fleet": {}}, "fleet: unknown field"),
    ],
)
def test_what_a_file_says_beside_its_devices_is_checked(more, said):
    with pytest.raises(SpecError, match=r"^profiles\.json: ") as refused:
        profiles_from_json(json.dumps({"clients": {}, "edges": {}, **more}), "profiles.json")
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_mark_of_byte_order_before_a_file_is_no_fault():
    assert profiles_from_json("\ufeff" + written({"a": CLIENT}), "p") == profiles_from_json(
        written({"a": CLIENT}), "p"
    )


def test_a_device_that_is_written_twice_is_refused():
    text = '{"edges": {}, "clients": {"ward-7": {}, "ward-8": {}, "ward-7": {}}}'
    with pytest.raises(SpecError, match=r"^profiles\.json is not JSON: ward-7 is there twice"):
        profiles_from_json(text, "profiles.json")


@pytest.mark.parametrize(
    "text", ["", "[1]", "null", "{}", '{"clients": {}, "edges": []}', '{"clients": {}}', "[" * 10**5, "\0"]
)
def test_a_file_that_is_no_fleet_is_refused_by_name(text):
    with pytest.raises(SpecError, match=r"^profiles\.json"):
        profiles_from_json(text, "profiles.json")
