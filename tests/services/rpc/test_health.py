"""The health service while a server drains: who watches is told, and neither waits for it nor holds it up."""

import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rpc_servers import KINDS, WAIT_S, loop_thread

from services.rpc.health_servicer import Checks
from services.rpc.server import start, start_aio

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
kinds = pytest.mark.parametrize("kind", KINDS)


def started(kind, run):
    """A server, and what stops it with a grace."""
    if kind == "sync":
        bound = start([], host="127.0.0.1", port=0, threads=2, insecure=False)
        return bound, bound.stop
    bound = run(start_aio([], host="127.0.0.1", port=0, insecure=False))
    return bound, lambda grace_s: run(bound.stop(grace_s))


@kinds
def test_a_stop_ends_watches_and_does_not_wait_for_them(kind):
    with loop_thread() as run:
        bound, stop = started(kind, run)
        with grpc.insecure_channel(bound.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S) for _ in range(3)]
            assert [next(watch).status for watch in watches] == [SERVING] * 3
            begin = time.monotonic()
            stop(WAIT_S)
            assert time.monotonic() - begin < WAIT_S / 2
            assert [[answer.status for answer in watch] for watch in watches] == [[NOT_SERVING]] * 3


@kinds
def test_whoever_leaves_a_watch_as_the_server_stops_does_not_hold_it_up(kind):
    """gRPC's own service hung here: once in some ten tries of these."""
    with loop_thread() as run:
        for _ in range(30):
            bound, stop = started(kind, run)
            with grpc.insecure_channel(bound.address) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S) for _ in range(8)]
                for watch in watches:
                    next(watch)
                for watch in watches:
                    watch.cancel()
                stopping = threading.Thread(target=stop, args=(WAIT_S,), daemon=True)
                stopping.start()
                stopping.join(WAIT_S)
                assert not stopping.is_alive()


@kinds
def test_a_name_that_is_not_known_is_not_found_and_may_be_watched(kind):
    with loop_thread() as run:
        bound, stop = started(kind, run)
        with grpc.insecure_channel(bound.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            with pytest.raises(grpc.RpcError) as found:
                stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=WAIT_S)
            assert found.value.code() is grpc.StatusCode.NOT_FOUND
            watch = stub.Watch(health_pb2.HealthCheckRequest(service="nobody"), timeout=WAIT_S)
            assert next(watch).status == UNKNOWN
            assert {name: each.status for name, each in _listed(stub).items()} == {"": SERVING}
            stop(WAIT_S)


def _listed(stub):
    return stub.List(health_pb2.HealthListRequest(), timeout=WAIT_S).statuses


def test_who_asks_after_the_drain_is_told_once():
    checks, told = Checks([""]), []
    checks.drain()

    class Context:
        def add_callback(self, left):
            return True

    checks.Watch(health_pb2.HealthCheckRequest(), Context(), told.append)
    assert [answer and answer.status for answer in told] == [NOT_SERVING, None]
