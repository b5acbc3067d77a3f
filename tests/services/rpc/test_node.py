"""A node's link to the cloud: it outlives the cloud, tells how far the node is, and ends when the node does."""

import logging
import queue
import threading
from contextlib import ExitStack

import pytest
from rpc_servers import WAIT_S, services_of

from elsa.errors import CapacityError, FullDiskError, MalformedError, NotFoundError, PeerError, UnreachableError
from elsa.v1 import fleet_pb2 as pb
from elsa.v1 import fleet_pb2_grpc
from services.rpc.drivers import RunDrivers
from services.rpc.node import CloudLink
from services.rpc.server import start


class Fleet(fleet_pb2_grpc.FleetServiceServicer):
    """A cloud that knows who registered and tells what came; its watch gives each list in `changes`, None ends it."""

    def __init__(self, heartbeat_s=0.02):
        self.heartbeat_s = heartbeat_s
        self.later_s = 0.0
        self.known = set()
        self.registered = queue.Queue()
        self.beats = queue.Queue()
        self.changes = queue.Queue()
        self.watches = queue.Queue()
        self.faults = []
        self.refusals = queue.Queue()

    def JoinRun(self, request, context):
        self.fail()
        self.refusals.put(request)
        return pb.JoinRunResponse()

    def RegisterClient(self, request, context):
        self.fail()
        self.known.add(request.client_id)
        self.registered.put(request.client_id)
        return pb.RegisterClientResponse(heartbeat_s=self.heartbeat_s)

    def Heartbeat(self, request, context):
        self.check(request.node_id)
        self.beats.put(request)
        return pb.HeartbeatResponse(heartbeat_s=self.later_s)

    def WatchAssignment(self, request, context):
        self.fail()
        self.check(request.node_id)
        self.watches.put(context)
        context.add_callback(lambda: self.changes.put(context))
        for change in iter(self.changes.get, None):
            if change is context:  # its caller has left
                return
            if isinstance(change, list):
                yield pb.WatchAssignmentResponse(assignments=[pb.Assignment(run_id=run_id) for run_id in change])

    def fail(self):
        if self.faults:
            raise self.faults.pop(0)

    def check(self, node_id):
        if node_id not in self.known:
            raise NotFoundError(f"{node_id} is not registered; register again")


class Cloud:
    """The servers of one address, one after another."""

    def __init__(self):
        self.bound, self.port = None, 0

    def serve(self, fleet):
        self.bound = start(services_of(fleet=fleet), host="127.0.0.1", port=self.port, threads=8, insecure=False)
        self.port = int(self.bound.address.rpartition(":")[2])
        return self.bound.address

    def stop(self):
        if self.bound is not None:
            self.bound.stop(0)
            self.bound = None


class Follower:
    """A thread that follows a link's assignments; `seen` are the run ids of each change, `error` how it ended."""

    def __init__(self, link):
        self.seen, self.error = queue.Queue(), None
        self.thread = threading.Thread(target=self._follow, args=(link,), name="follower")
        self.thread.start()

    def _follow(self, link):
        try:
            for assignments in link.assignments():
                self.seen.put([assignment.run_id for assignment in assignments])
        except Exception as error:  # noqa: BLE001 - for the test to look at
            self.error = error

    def ended(self):
        self.thread.join(WAIT_S)
        return not self.thread.is_alive()


@pytest.fixture
def cloud():
    served = Cloud()
    yield served
    served.stop()


@pytest.fixture
def node():
    """`node(address)`: a link that is closed at the end."""
    with ExitStack() as closing:

        def make(address, patience_s=30.0):
            def register(stub):
                return stub.RegisterClient(pb.RegisterClientRequest(client_id="c1"), timeout=WAIT_S).heartbeat_s

            link = CloudLink(address, "c1", register, stop=threading.Event(), patience_s=patience_s)
            closing.callback(link.close)
            return link

        yield make


def heartbeats():
    return [thread for thread in threading.enumerate() if thread.name == "heartbeat"]


def until(items, wanted):
    """The first item that is wanted, waiting for it."""
    while True:
        item = items.get(timeout=WAIT_S)
        if wanted(item):
            return item


def test_a_node_registers_and_follows(cloud, node):
    fleet = Fleet()
    link = node(cloud.serve(fleet))
    link.start()
    assert fleet.registered.get(timeout=WAIT_S) == "c1"
    fleet.changes.put(["r1"])
    fleet.changes.put([])
    follower = Follower(link)
    assert follower.seen.get(timeout=WAIT_S) == ["r1"]
    assert follower.seen.get(timeout=WAIT_S) == []
    link.close()
    assert follower.ended() and follower.error is None


def test_heartbeats_tell_the_newest_progress_of_each_run(cloud, node):
    fleet = Fleet()
    link = node(cloud.serve(fleet))
    link.report(pb.Progress(run_id="r1", step=1))
    link.report(pb.Progress(run_id="r1", step=2, loss=0.5))
    link.report(pb.Progress(run_id="r2"))
    link.start()
    beat = fleet.beats.get(timeout=WAIT_S)
    assert beat.node_id == "c1"
    assert {progress.run_id: progress.step for progress in beat.progress} == {"r1": 2, "r2": 0}
    link.forget("r1")
    link.forget("never there")
    until(fleet.beats, lambda beat: [progress.run_id for progress in beat.progress] == ["r2"])


def test_a_cloud_that_comes_back_without_memory_gets_its_node_back(cloud, node):
    first = Fleet()
    link = node(cloud.serve(first))
    link.start()
    first.changes.put(["r1"])
    follower = Follower(link)
    assert follower.seen.get(timeout=WAIT_S) == ["r1"]
    cloud.stop()
    second = Fleet()
    second.changes.put(["r1", "r2"])
    cloud.serve(second)
    assert second.registered.get(timeout=WAIT_S) == "c1"
    assert follower.seen.get(timeout=WAIT_S) == ["r1", "r2"]  # the whole truth again
    assert second.beats.get(timeout=WAIT_S).node_id == "c1"


def test_a_node_that_is_forgotten_while_its_watch_stands_registers_by_heartbeat(cloud, node):
    fleet = Fleet()
    link = node(cloud.serve(fleet))
    link.start()
    follower = Follower(link)
    fleet.watches.get(timeout=WAIT_S)
    fleet.registered.get(timeout=WAIT_S)
    fleet.known.clear()
    assert fleet.registered.get(timeout=WAIT_S) == "c1"
    fleet.changes.put(["r1"])
    assert follower.seen.get(timeout=WAIT_S) == ["r1"]


def test_a_watch_that_is_unknown_or_ends_is_opened_again(cloud, node):
    fleet = Fleet(heartbeat_s=1000)
    link = node(cloud.serve(fleet))  # never started: unknown at first
    follower = Follower(link)
    assert fleet.registered.get(timeout=WAIT_S) == "c1"
    fleet.watches.get(timeout=WAIT_S)
    fleet.changes.put(None)  # the cloud ends the watch, for no reason that it tells
    fleet.watches.get(timeout=WAIT_S)
    fleet.changes.put(["r1"])
    assert follower.seen.get(timeout=WAIT_S) == ["r1"]


def test_a_cloud_in_trouble_is_asked_again(cloud, node, caplog):
    fleet = Fleet(heartbeat_s=1000)
    link = node(cloud.serve(fleet))
    link.start()
    fleet.faults = [RuntimeError("disk"), CapacityError("full"), CapacityError("full"), RuntimeError("disk")]
    follower = Follower(link)
    fleet.changes.put(["r1"])
    assert follower.seen.get(timeout=WAIT_S) == ["r1"]
    assert not fleet.faults


def test_a_cloud_without_room_is_asked_again_by_calls_of_runs_and_while_registering(cloud, node):
    fleet = Fleet(heartbeat_s=1000)
    link = node(cloud.serve(fleet))
    fleet.faults = [FullDiskError("full")]
    link.start()
    fleet.faults = [FullDiskError("full"), CapacityError("too many calls")]
    link.refuse("r1", "no memory")
    assert fleet.refusals.get(timeout=WAIT_S).refusal == "no memory"
    assert not fleet.faults


def test_a_cloud_that_stays_in_trouble_is_given_up(cloud, node):
    fleet = Fleet(heartbeat_s=1000)
    link = node(cloud.serve(fleet), patience_s=0.05)
    link.start()
    fleet.faults = [CapacityError("all places are taken")] * 100
    follower = Follower(link)
    assert follower.ended() and isinstance(follower.error, CapacityError)
    assert len(fleet.faults) > 90


def test_a_refusal_is_one_line_and_short_and_needs_no_cloud(cloud, node, caplog):
    fleet = Fleet()
    link = node(cloud.serve(fleet))
    link.refuse("r1", "no\n room " + "x" * 1000)
    told = fleet.refusals.get(timeout=WAIT_S)
    assert (told.run_id, told.node_id, len(told.refusal)) == ("r1", "c1", 500)
    assert told.refusal.startswith("no room xxx") and told.refusal.endswith("x…")
    link.close()
    link.refuse("r1", "gone")
    assert "was not told" in caplog.text


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_heartbeat_that_makes_no_sense_is_refused(cloud, node, seconds):
    link = node(cloud.serve(Fleet(heartbeat_s=seconds)))
    with pytest.raises(MalformedError, match="heartbeat_s"):
        link.start()
    assert not heartbeats()


def test_a_heartbeat_is_as_far_from_the_last_one_as_that_ones_answer_said(cloud, node):
    fleet = Fleet()
    fleet.later_s = 1000.0
    link = node(cloud.serve(fleet))
    link.start()
    fleet.beats.get(timeout=WAIT_S)
    with pytest.raises(queue.Empty):
        fleet.beats.get(timeout=10 * fleet.heartbeat_s)


def test_an_answer_without_seconds_leaves_the_heartbeat_as_it_was(cloud, node):
    fleet = Fleet()
    link = node(cloud.serve(fleet))
    link.start()
    for _ in range(3):
        fleet.beats.get(timeout=WAIT_S)


def test_a_cloud_that_never_answers_is_given_up_by_name(cloud, node):
    address = cloud.serve(Fleet())
    cloud.stop()
    link = node(address, patience_s=0.0)
    with pytest.raises(UnreachableError, match=f"^cloud {address} did not answer for 0 s"):
        link.start()
    follower = Follower(link)
    assert follower.ended() and isinstance(follower.error, UnreachableError)


def test_closing_ends_watch_heartbeat_and_threads(cloud, node):
    before = set(threading.enumerate())
    fleet = Fleet()
    link = node(cloud.serve(fleet))
    link.start()
    follower = Follower(link)
    context = fleet.watches.get(timeout=WAIT_S)
    left = threading.Event()
    assert context.add_callback(left.set)
    link.close()
    assert follower.ended() and follower.error is None
    assert not heartbeats()
    assert left.wait(WAIT_S)
    link.close()  # once more does nothing
    cloud.stop()
    for thread in set(threading.enumerate()) - before:
        thread.join(WAIT_S)
    assert not set(threading.enumerate()) - before


class Heard(logging.Handler):
    """Sets an event when a text is logged."""

    def __init__(self, text):
        super().__init__()
        self.event, self._text = threading.Event(), text

    def emit(self, record):
        if self._text in record.getMessage():
            self.event.set()


def test_closing_ends_a_node_that_waits_for_its_cloud(cloud, node):
    fleet = Fleet()
    link = node(cloud.serve(fleet))
    link.start()
    follower = Follower(link)
    fleet.watches.get(timeout=WAIT_S)
    waits, log = Heard("trying again for"), logging.getLogger("services.rpc.channel")
    log.addHandler(waits)
    try:
        cloud.stop()
        assert waits.event.wait(WAIT_S)
        link.close()
    finally:
        log.removeHandler(waits)
    assert follower.ended() and follower.error is None


def test_closing_waits_for_a_heartbeat_on_its_way(cloud):
    fleet, asked, done = Fleet(), threading.Event(), []

    def register(stub):
        if fleet.registered.qsize():  # the heartbeat's own registration, after the node was forgotten
            asked.set()
            link.stop.wait(WAIT_S)
            threading.Event().wait(0.2)  # slow to leave
            done.append(None)
        return stub.RegisterClient(pb.RegisterClientRequest(client_id="c1"), timeout=WAIT_S).heartbeat_s

    link = CloudLink(cloud.serve(fleet), "c1", register, stop=threading.Event(), patience_s=30.0)
    link.start()
    fleet.known.clear()
    assert asked.wait(WAIT_S)
    link.close()
    assert done and not heartbeats()


def test_a_closed_link_gives_no_assignments_and_makes_no_calls(cloud, node):
    fleet = Fleet()
    link = node(cloud.serve(fleet))
    link.close()
    assert list(link.assignments()) == []
    with pytest.raises(UnreachableError, match="stopped"):
        link.patiently(lambda: link.fleet.Heartbeat(pb.HeartbeatRequest(), timeout=WAIT_S))
    assert fleet.beats.empty()


@pytest.mark.parametrize("error", [PeerError("its disk"), FullDiskError("no room"), CapacityError("too fast")])
def test_a_call_is_made_again_after_a_fault_of_the_cloud_that_passes(cloud, node, error):
    fleet = Fleet()
    link = node(cloud.serve(fleet))
    fleet.faults = [error]
    assert link.refuse("r-1", "cannot")
    assert fleet.refusals.get(timeout=WAIT_S).refusal == "cannot"


class Driver:
    """Keeps what it is told."""

    def __init__(self, told, assignment):
        self._told, self._run_id = told, assignment.run_id

    def start(self):
        self._told.append(("start", self._run_id))

    def update(self, assignment):
        self._told.append(("update", assignment.run_id))

    def stop(self):
        self._told.append(("stop", self._run_id))


def test_runs_begin_when_assigned_and_stop_when_they_are_not():
    told = []
    drivers = RunDrivers(lambda assignment: Driver(told, assignment))
    a, b = pb.Assignment(run_id="a"), pb.Assignment(run_id="b")
    drivers.follow([[a], [a, b], [b]])
    assert told == [
        ("start", "a"),
        ("update", "a"),
        ("update", "a"),
        ("start", "b"),
        ("update", "b"),
        ("stop", "a"),
        ("update", "b"),
    ]
    del told[:]
    drivers.close()
    drivers.follow([[a]])
    drivers.close()
    assert told == [("stop", "b")]
