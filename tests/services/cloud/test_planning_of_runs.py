"""Laws of planning a run: whose word counts, what one device cannot spoil, what is written, what is told."""

from dataclasses import replace

import pytest
from cloud_harness import spec
from plan_harness import PLANNED

from elsa.errors import CapacityError, SpecError, SplitError
from elsa.plan.problem import Refusal
from elsa.plan.profile import ClientProfile, EdgeProfile, LinkProfile
from elsa.plan.shape import ModelShape
from elsa.spec import RunSpec
from elsa.train.phases import PhaseSeconds
from elsa.wire.chunks import MAX_MESSAGE_BYTES
from services.cloud import correcting, planning
from services.cloud.agreed import agreed_shape, of_another_model
from services.cloud.correcting import corrected
from services.cloud.events import Planned, PlannedClient
from services.cloud.lifecycle import RunState
from services.cloud.plan_messages import planned_to_proto
from services.cloud.planning import Planning, planned, planned_again, problem_of, replanned
from services.cloud.records import Answer, Member, Node, Profile, Role, Run
from services.cloud.round_records import ClientReport
from services.cloud.sharing import MOST_NOTES, share_anew, tell
from services.cloud.store import Store, Transaction

SHAPE = ModelShape(
    blocks=12,
    width=64,
    block_weights=50_000,
    embedding_weights=100_000,
    head_weights=5_000,
    largest_weights=100_000,
    block_adapter=2_000,
    block_activations=800,
    head_activations=200,
)
SPEC = RunSpec.from_yaml(spec(**PLANNED))
HOMES = {"a": "edge-1", "b": "edge-1", "c": "edge-1"}
LINK = LinkProfile(latency_ms=1, up_bytes_per_s=1e9, down_bytes_per_s=1e9)
GIB = 2**30


def client(name, block_s=0.01, row_tokens=20.0, links=("edge-1", "edge-2")):
    own = ClientProfile(
        name=name,
        block_s=block_s,
        embeddings_s=0.001,
        head_s=0.001,
        memory_bytes=GIB,
        links=dict.fromkeys(links, LINK),
    )
    return Profile(run_id="r", node_id=name, client=own, row_tokens=row_tokens)


def edge(name="edge-1", shape=SHAPE):
    own = EdgeProfile(name=name, block_s=0.002, memory_bytes=8 * GIB, capacity=8)
    return Profile(run_id="r", node_id=name, edge=own, shape=shape)


def members(split=None, local_steps=0, **homes):
    clients = [
        Member(
            run_id="r",
            node_id=name,
            role=Role.CLIENT,
            answer=Answer.JOINED,
            edge_id=home,
            split=split,
            local_steps=local_steps,
        )
        for name, home in (homes or HOMES).items()
    ]
    return [*clients, Member(run_id="r", node_id="edge-1", role=Role.EDGE, answer=Answer.JOINED)]


FLEET = [client("a"), client("b"), client("c"), edge()]


def report(name, block_s=0.01, steps=10):
    seconds = PhaseSeconds(bottom=steps * 5 * block_s, network=steps * 0.01, trunk=steps * 0.012, top=steps * block_s)
    return ClientReport(client_id=name, edge_round=0, rows=10, steps=steps, loss=1.0, seconds=seconds, split="5/6/1")


def slower(*names):
    return {"edge-1": [report(name, block_s=0.03) for name in names]}


def test_the_shape_is_that_of_most_edges_with_the_most_that_these_tell():
    more = replace(SHAPE, block_weights=60_000, head_activations=1)
    less = replace(SHAPE, embedding_weights=90_000)
    liar = replace(SHAPE, width=2**40, embedding_weights=2**41, block_weights=2**41)
    profiles = [edge("edge-0", liar), edge("edge-1", more), edge("edge-2", less)]
    assert agreed_shape(profiles) == replace(SHAPE, block_weights=60_000)
    assert agreed_shape(profiles[::-1]) == agreed_shape(profiles)
    (fault,) = of_another_model(profiles, agreed_shape(profiles))
    assert (fault.name, fault.role) == ("edge-0", "edge") and f"width {2**40}" in fault.reason
    assert agreed_shape(profiles[:2]) == liar  # of equals the first


def test_without_an_edge_there_is_no_shape():
    with pytest.raises(CapacityError, match="no edge has told the shape"):
        agreed_shape(FLEET[:3])


def test_who_takes_no_part_counts_nowhere():
    gone = [client("z", row_tokens=1e6), edge("edge-0", replace(SHAPE, blocks=40)), edge("edge-9")]
    alone = problem_of(SPEC, members(), FLEET, HOMES)
    beside = problem_of(SPEC, members(), [*FLEET, *gone], HOMES)
    assert (beside.model, beside.workload, beside.faults) == (alone.model, alone.workload, alone.faults)
    there, _ = corrected(SPEC, members(), FLEET, HOMES, slower("a"))
    both, _ = corrected(SPEC, members(), [*gone, *FLEET], HOMES, slower("a"))
    assert both == [*gone, *there]


@pytest.mark.parametrize("error", [SpecError, SplitError, ValueError, ZeroDivisionError])
def test_reports_that_make_no_profile_leave_that_device_as_it_is_with_a_note(monkeypatch, error):
    def client_as_measured(profile, *rest):
        if profile.name == "b":
            raise error("block_s is nan")
        return correct(profile, *rest)

    correct = correcting.client_as_measured
    monkeypatch.setattr(correcting, "client_as_measured", client_as_measured)
    made = replanned(SPEC, members(), FLEET, HOMES, slower("a", "b", "c"), 1)
    assert [profile.node_id for profile in made.profiles] == ["a", "c"]
    assert made.notes == ("b keeps its profile: block_s is nan",)
    assert made.planning.shares.keys() == HOMES.keys() and made.notes[0] in made.planning.notes


@pytest.mark.parametrize("error", [CapacityError, SpecError, SplitError, ValueError])
def test_a_plan_that_cannot_be_made_while_a_run_trains_leaves_all_as_before(monkeypatch, error):
    def plan(problem):
        raise error("nobody fits")

    monkeypatch.setattr(planning, "plan", plan)
    assert planned_again(SPEC, members(), FLEET, HOMES) == Planning(shares={}, notes=("as before: nobody fits",))
    made = replanned(SPEC, members(), FLEET, HOMES, slower("a"), 1)
    assert made.notes == ("as before: nobody fits",) and [one.node_id for one in made.profiles] == ["a"]


def test_profiles_without_a_shape_are_left_as_they_are():
    made = replanned(SPEC, members(), FLEET[:3], HOMES, slower("a"), 1)
    assert not made.profiles and not made.planning.shares
    assert made.notes[0].startswith("profiles as before: no edge has told")


def test_profiles_that_reports_bear_out_are_not_written_again():
    first = replanned(SPEC, members(), FLEET, HOMES, slower("a"), 1)
    known = {one.node_id: one for one in first.profiles}
    newest = [known.get(one.node_id, one) for one in FLEET]
    again = replanned(SPEC, members(), newest, HOMES, {}, 2)
    assert not again.profiles


def proportional(local_steps=100):
    training = {"rounds": 3, "local_steps": local_steps, "steps": "proportional"}
    return RunSpec.from_yaml(spec(**PLANNED | {"training": training}))


@pytest.mark.parametrize(("share", "stays"), [(1.09, True), (0.92, True), (1.2, False), (0.8, False)])
def test_steps_stay_where_they_hardly_differ_and_the_split_stays(share, stays):
    given, fleet = proportional(), [client("a", 0.004), client("b", 0.016), client("c", 0.008), edge()]
    fresh = planned(given, members(), fleet, HOMES).shares
    stood = [
        replace(
            member, split=fresh[member.node_id].split, local_steps=round(share * fresh[member.node_id].local_steps)
        )
        if member.role is Role.CLIENT
        else member
        for member in members()
    ]
    now = planned(given, stood, fleet, HOMES).shares
    before = {member.node_id: member.local_steps for member in stood}
    assert all(now[name].split == own.split for name, own in fresh.items())
    assert {name: own.local_steps for name, own in now.items()} == {
        name: before[name] if stays else own.local_steps for name, own in fresh.items()
    }
    elsewhere = [replace(member, split="9/1") if member.split else member for member in stood]
    anew = planned(given, elsewhere, fleet, HOMES).shares
    assert all(own.local_steps == fresh[name].local_steps for name, own in anew.items() if own.split != "9/1")


def test_of_many_notes_the_first_are_told_and_how_many_more(store):
    notes = tuple(f"note {number}" for number in range(MOST_NOTES + 5))
    with store.transaction() as transaction:
        tell(transaction, RUN, Planning(shares={}, notes=notes), [], 1, 0.0)
        told = transaction.events("r", 0)[-1].body
    assert told.notes == (*notes[:MOST_NOTES], "and 5 more")


def test_a_plan_of_many_clients_with_long_notes_goes_into_one_message():
    own = PlannedClient(
        client_id="c" * 60,
        edge_id="edge-1",
        split="5/6/1",
        local_steps=20,
        seconds=PhaseSeconds(),
        need_bytes=GIB,
        reason="r" * 300,
    )
    body = Planned(version=1, notes=("n" * 20_000,) * 20, step_s=1.0, clients=(own,) * 3_000)
    message = planned_to_proto(body)
    assert message.changed == 3_000 and message.ByteSize() <= MAX_MESSAGE_BYTES and len(message.clients) > 500


RUN = Run(run_id="r", number=1, name="r", state=RunState.TRAINING, spec="", rounds=3, created_unix_s=0.0)


@pytest.fixture
def store(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'elsa.db'}")
    with store.transaction() as transaction:
        transaction.put(RUN)
        there = members(split="1/1", local_steps=20)
        nodes = [Node(node_id=member.node_id, role=member.role) for member in there]
        for record in (*nodes, Node(node_id="edge-2", role=Role.EDGE), *there, *FLEET):
            transaction.put(record)
    yield store
    store.close()


def written(store, monkeypatch, made):
    """What sharing a plan writes."""
    with store.transaction() as transaction:
        kept, put = [], Transaction.put
        monkeypatch.setattr(Transaction, "put", lambda self, record: (kept.append(record), put(self, record)))
        share_anew(transaction, RUN, made, 1, 0.0)
    return kept


def test_only_what_changed_is_written(store, monkeypatch):
    stood = members(split="1/1", local_steps=20)
    made = replanned(SPEC, stood, FLEET, HOMES, slower("a"), 1)
    shares = made.planning.shares
    changed = [member.node_id for member in stood if member.split and shares[member.node_id].split != "1/1"]
    kept = written(store, monkeypatch, made)
    assert [record.node_id for record in kept] == ["a", *changed]


def test_who_left_or_was_moved_between_planning_and_writing_is_given_nothing(store, monkeypatch):
    made = planned(SPEC, members(), FLEET, HOMES)
    assert all(share.split != "1/1" for share in made.shares.values())
    with store.transaction() as transaction:
        transaction.put(Member(run_id="r", node_id="a", role=Role.CLIENT, answer=Answer.REFUSED))
        transaction.put(replace(members(split="1/1", local_steps=20)[1], edge_id="edge-2"))
    kept = written(store, monkeypatch, planning.Replanned(profiles=(), planning=made))
    assert [record.node_id for record in kept] == ["c"]


def test_who_is_refused_while_a_run_trains_keeps_what_it_has():
    small = replace(FLEET[1], client=replace(FLEET[1].client, memory_bytes=1))
    made = planned_again(SPEC, members(), [FLEET[0], small, *FLEET[2:]], HOMES)
    assert made.shares.keys() == {"a", "c"} and [one.name for one in made.refused] == ["b"]
    assert isinstance(made.refused[0], Refusal) and any(note.startswith("b keeps its split") for note in made.notes)
