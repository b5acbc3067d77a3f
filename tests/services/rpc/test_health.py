"""The health service while a server drains: who watches is told, and neither waits for it nor holds it up.

Synchronous servers offer no `Watch`, which would hold their threads.
"""

import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from http2_peer import DATA, HEADERS, Peer
from rpc_servers import KINDS, WAIT_S, loop_thread

from services.rpc.server import start, start_aio

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
WATCH = "/grpc.health.v1.Health/Watch"
kinds = pytest.mark.parametrize("kind", KINDS)


def started(kind, run):
    """A server, and what stops it with a grace."""
    if kind == "sync":
        bound = start([], host="127.0.0.1", port=0, threads=2, insecure=False)
        return bound, bound.stop
    bound = run(start_aio([], host="127.0.0.1", port=0, insecure=False))
    return bound, lambda grace_s: run(bound.stop(grace_s))


def test_a_stop_ends_watches_and_does_not_wait_for_them():
    with loop_thread() as run:
        bound, stop = started("aio", run)
        with grpc.insecure_channel(bound.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S) for _ in range(3)]
            assert [next(watch).status for watch in watches] == [SERVING] * 3
            begin = time.monotonic()
            stop(WAIT_S)
            assert time.monotonic() - begin < WAIT_S / 2
            assert [[answer.status for answer in watch] for watch in watches] == [[NOT_SERVING]] * 3


def test_whoever_leaves_a_watch_as_the_server_stops_does_not_hold_it_up():
    with loop_thread() as run:
        for _ in range(30):
            bound, stop = started("aio", run)
            with grpc.insecure_channel(bound.address) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S) for _ in range(8)]
                for watch in watches:
                    next(watch)
                for watch in watches:
                    watch.cancel()
                assert _stops(stop, WAIT_S)


@kinds
def test_whoever_takes_no_answers_holds_up_neither_others_nor_a_stop(kind):
    with loop_thread() as run:
        bound, stop = started(kind, run)
        with Peer(bound.address, window=0) as peer:
            for _ in range(4):
                peer.call(WATCH)
            peer.until(HEADERS)
            with grpc.insecure_channel(bound.address) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                assert stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == SERVING
            assert _stops(stop, 0.2)


def test_a_hand_made_caller_is_answered_as_any():
    with loop_thread() as run:
        bound, stop = started("sync", run)
        with Peer(bound.address) as peer:
            peer.call("/grpc.health.v1.Health/Check")
            peer.until(DATA)
        stop(0)


def test_synchronous_servers_offer_no_watch():
    with loop_thread() as run:
        bound, stop = started("sync", run)
        with grpc.insecure_channel(bound.address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
            assert watch.code() is grpc.StatusCode.UNIMPLEMENTED
        stop(0)


def _stops(stop, grace_s):
    stopping = threading.Thread(target=stop, args=(grace_s,), daemon=True)
    stopping.start()
    stopping.join(5 if grace_s < 5 else grace_s)
    return not stopping.is_alive()


@kinds
def test_a_name_that_is_not_known_is_not_found_and_all_are_listed(kind):
    with loop_thread() as run:
        bound, stop = started(kind, run)
        with grpc.insecure_channel(bound.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            with pytest.raises(grpc.RpcError) as found:
                stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=WAIT_S)
            assert found.value.code() is grpc.StatusCode.NOT_FOUND
            assert {name: each.status for name, each in _listed(stub).items()} == {"": SERVING}
            bound.health.drain()
            assert stub.Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S).status == NOT_SERVING
            assert {name: each.status for name, each in _listed(stub).items()} == {"": NOT_SERVING}
        stop(0)


def test_a_name_that_is_not_known_may_be_watched():
    with loop_thread() as run:
        bound, stop = started("aio", run)
        with grpc.insecure_channel(bound.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest(service="nobody"), timeout=WAIT_S)
            assert next(watch).status == UNKNOWN
            stop(WAIT_S)


def _listed(stub):
    return stub.List(health_pb2.HealthListRequest(), timeout=WAIT_S).statuses
