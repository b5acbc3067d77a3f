"""Limits of rates are settings: with bounds, of cloud and edge, and those that the guard holds callers to."""

import asyncio
import threading

import grpc
import grpc.aio
import pytest
from certificates import Authority

from elsa.errors import CapacityError, SpecError
from elsa.v1 import run_pb2, run_pb2_grpc
from services.cloud.service import serving
from services.cloud.settings import CloudSettings
from services.edge.service import Edge
from services.edge.settings import EdgeSettings
from services.rpc.identity import CLOUD_HOST, Identity
from services.rpc.rates import RateLimits

kinds = pytest.mark.parametrize("kind", [CloudSettings, EdgeSettings])
ONE = {"max_calls_per_s": 0.001, "max_calls_at_once": 1}


@kinds
def test_the_defaults_are_those_of_the_limits(kind):
    assert kind.load().rates == RateLimits()


@kinds
def test_each_limit_is_a_setting(kind, monkeypatch):
    given = {"CALLS_PER_S": 1, "CALLS_AT_ONCE": 2, "STREAMS_PER_S": 3, "STREAMS_AT_ONCE": 4, "OPEN_STREAMS": 5}
    for name, value in (given | {"REQUEST_BYTES_PER_S": 6, "REQUEST_BYTES_AT_ONCE": 1 << 21}).items():
        monkeypatch.setenv(f"ELSA_MAX_{name}", str(value))
    assert kind.load().rates == RateLimits(
        calls_per_s=1,
        calls_burst=2,
        streams_per_s=3,
        streams_burst=4,
        open_streams=5,
        request_bytes_per_s=6,
        request_bytes_burst=1 << 21,
    )


@kinds
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_calls_per_s", 0),
        ("max_calls_per_s", "inf"),
        ("max_calls_at_once", 0),
        ("max_streams_per_s", -1),
        ("max_streams_at_once", 0.5),
        ("max_open_streams", 0),
        ("max_request_bytes_per_s", "nan"),
        ("max_request_bytes_at_once", 1000),
        ("probe_port", 65536),
        ("metrics_port", -1),
        ("metrics_port", "none"),
        ("grace_s", -1),
    ],
)
def test_a_limit_out_of_bounds_is_one_line_that_names_it(kind, field, value):
    with pytest.raises(SpecError, match=field) as found:
        kind.load(**{field: value})
    assert "\n" not in str(found.value)


def tls(authority, identity):
    files = authority.issued(identity)
    return {"tls_ca": files.ca, "tls_cert": files.certificate, "tls_key": files.key}


def test_a_cloud_holds_callers_to_its_settings(tmp_path):
    authority = Authority(tmp_path / "ca")
    own = tls(authority, Identity("cloud", "main"))
    settings = CloudSettings(port=0, state=tmp_path / "cloud", grace_s=0, **own, **ONE)
    asker = authority.issued(Identity("admin", "ops"))
    credentials = grpc.ssl_channel_credentials(asker.ca_pem, asker.key_pem, asker.certificate_pem)

    async def asked():
        options = [("grpc.ssl_target_name_override", CLOUD_HOST)]
        async with (
            serving(settings) as cloud,
            grpc.aio.secure_channel(cloud.address, credentials, options) as channel,
        ):
            runs = run_pb2_grpc.RunServiceStub(channel)
            await runs.ListRuns(run_pb2.ListRunsRequest(), timeout=20)
            await runs.ListRuns(run_pb2.ListRunsRequest(), timeout=20)

    with pytest.raises(grpc.aio.AioRpcError, match=r"calls more than 0\.001 times a second") as found:
        asyncio.run(asked())
    assert found.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_edge_holds_callers_to_its_settings(tmp_path):
    own = tls(Authority(tmp_path / "ca"), Identity("edge", "edge-1"))
    edge = Edge(EdgeSettings(name="edge-1", **own, **ONE), threading.Event())
    try:
        edge._guard.rates.call(Identity("client", "ann"))
        with pytest.raises(CapacityError, match=r"calls more than 0\.001 times a second"):
            edge._guard.rates.call(Identity("client", "ann"))
    finally:
        edge.close()
