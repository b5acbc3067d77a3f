"""Dialling: peers are who their certificates say, wherever they stand; without TLS only loopback is called."""

import logging
import queue
import threading

import grpc
import pytest
from certificates import Authority
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rpc_servers import KINDS, WAIT_S, services_of, serving

from elsa.errors import AddressError, HandshakeError, InputError, UnauthenticatedError, UnreachableError
from elsa.v1 import fleet_pb2, fleet_pb2_grpc, split_pb2, split_pb2_grpc
from services.cli.operator import Operator
from services.client.links import measure
from services.client.stay import Stay, Stays
from services.rpc.caller import caller_of
from services.rpc.dial import LOOPBACK, Dialer
from services.rpc.identity import CLOUD_HOST, Identity
from services.rpc.keypair import TlsFiles
from services.rpc.node import CloudLink
from services.rpc.status import translated
from services.rpc.tls import Own, server_credentials

FIRST, SECOND = Identity("edge", "edge-1"), Identity("edge", "edge-2")
CLOUD, CLIENT, ADMIN = Identity("cloud", "cloud"), Identity("client", "c1"), Identity("admin", "ann")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


def own_of(issued, identity):
    files = TlsFiles(ca=issued.ca, certificate=issued.certificate, key=issued.key)
    return Own(files, identity.role, identity.name)


def credentials_of(authority, identity):
    return server_credentials(own_of(authority.issued(identity), identity))


def dialer_of(authority, identity=CLIENT):
    return Dialer(own=own_of(authority.issued(identity), identity))


def healthy(dialer, address, host, peer="edge one"):
    with dialer.connect(address, host) as channel, translated(peer):
        request = health_pb2.HealthCheckRequest(service="")
        return health_pb2_grpc.HealthStub(channel).Check(request, timeout=WAIT_S).status


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_call_on_loopback_goes_by_no_proxy_of_the_environment(authority, monkeypatch, host, tls):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    credentials = credentials_of(authority, FIRST) if tls else None
    with serving("sync", services_of(split=Pings()), credentials=credentials) as address:
        port = address.rpartition(":")[2]
        dialer = dialer_of(authority) if tls else LOOPBACK
        assert healthy(dialer, f"{host}:{port}", FIRST.host) == health_pb2.HealthCheckResponse.SERVING


class Pings(split_pb2_grpc.SplitServiceServicer):
    """Answers pings, and notes who asked."""

    def __init__(self):
        self.callers = []

    def Ping(self, request, context):
        self.callers.append(caller_of(context.auth_context()))
        return split_pb2.PingResponse(payload=bytes(request.reply_bytes))


@pytest.mark.parametrize("kind", KINDS)
def test_an_edge_is_known_by_its_certificate_and_another_in_its_place_is_refused(authority, kind):
    dialer = dialer_of(authority)
    with serving(kind, services_of(), credentials=credentials_of(authority, FIRST)) as address:
        assert healthy(dialer, address, FIRST.host) == health_pb2.HealthCheckResponse.SERVING
        for wanted in (SECOND.host, CLOUD_HOST, "127.0.0.1"):
            with pytest.raises(UnreachableError, match=r"^edge one shows the certificate of somebody else; check"):
                healthy(dialer, address, wanted)


def test_every_caller_asks_for_the_peer_that_it_means(authority):
    """An edge that answers at another's address, or at the cloud's, hears nothing from client, edge or operator."""
    pings, dialer = Pings(), dialer_of(authority)
    with serving("sync", services_of(split=pings), credentials=credentials_of(authority, SECOND)) as address:
        there = fleet_pb2.EdgePeer(edge_id="edge-2", address=address)
        posed = fleet_pb2.EdgePeer(edge_id="edge-1", address=address)
        assert [report.edge_id for report in measure([posed, there], dialer)] == ["edge-2"]
        heard = len(pings.callers)
        assert heard and {caller.identity for caller in pings.callers} == {CLIENT}
        stay = Stay(posed, dialer)
        with pytest.raises(UnreachableError, match="somebody else"), translated(stay.peer):
            stay.stubs()[0].Ping(split_pb2.PingRequest(), timeout=WAIT_S)
        stay.end()
        with (
            Operator(address, 0, dialer=dialer_of(authority, ADMIN)) as operator,
            pytest.raises(UnreachableError, match="somebody else"),
        ):
            operator.list()
        link = CloudLink(address, "c1", lambda fleet: 1.0, stop=threading.Event(), patience_s=0.1, dialer=dialer)
        with pytest.raises(UnreachableError, match="somebody else"), translated(link.peer):
            link.fleet.Heartbeat(fleet_pb2.HeartbeatRequest(node_id="c1"), timeout=WAIT_S)
        link.close()
        assert len(pings.callers) == heard


def test_a_renewed_certificate_is_shown_by_the_next_channel(authority, tmp_path):
    old, new, pings = authority.issued(CLIENT), authority.issued(CLIENT), Pings()
    files = TlsFiles(ca=authority.ca, certificate=tmp_path / "own.pem", key=tmp_path / "own.key")

    put(old, files)
    dialer = Dialer(own=Own(files, "client", "c1"))
    with serving("sync", services_of(split=pings), credentials=credentials_of(authority, FIRST)) as address:
        for issued in (old, new):
            put(issued, files)
            with dialer.connect(address, FIRST.host) as channel:
                split_pb2_grpc.SplitServiceStub(channel).Ping(split_pb2.PingRequest(), timeout=WAIT_S)
            assert pings.callers[-1].serial == issued.serial


def test_what_a_failed_handshake_means_is_said(authority, tmp_path):
    stranger = Authority(tmp_path / "stranger")
    with serving("sync", services_of(), credentials=credentials_of(authority, FIRST)) as address:
        with pytest.raises(UnreachableError, match=r"was signed by the authority in --tls-ca$"):
            healthy(dialer_of(stranger), address, FIRST.host)
        with pytest.raises(UnreachableError, match=r"check that both sides use TLS or neither, and that it accepts"):
            healthy(LOOPBACK, address, FIRST.host)
        mixed = stranger.issued(CLIENT)
        refused = grpc.ssl_channel_credentials(authority.ca.read_bytes(), mixed.key_pem, mixed.certificate_pem)
        options = [("grpc.ssl_target_name_override", FIRST.host)]
        with (
            grpc.secure_channel(address, refused, options) as channel,
            pytest.raises(UnreachableError, match="that it accepts this side's certificate"),
            translated("edge one"),
        ):
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
    with (
        serving("sync", services_of()) as plain,
        pytest.raises(UnreachableError, match=r"^edge one does not speak TLS at this port; check the port"),
    ):
        healthy(dialer_of(authority), plain, FIRST.host)
    with pytest.raises(UnreachableError, match=r"^edge one does not answer; check that it runs and its address$"):
        healthy(dialer_of(authority), plain, FIRST.host)


def test_a_node_whose_cloud_refuses_it_says_so_while_it_tries(authority, caplog):
    caplog.set_level(logging.WARNING)
    with serving("sync", services_of(), credentials=credentials_of(authority, FIRST)) as address:
        link = CloudLink(address, "c1", _beat, stop=threading.Event(), patience_s=2)
        with pytest.raises(UnreachableError, match="both sides use TLS or neither"):
            link.start()
        link.close()
    assert "both sides use TLS or neither" in caplog.text and "trying again" in caplog.text


class Cloud(fleet_pb2_grpc.FleetServiceServicer):
    """Notes by which certificate a node beats, and by which it watches."""

    def __init__(self):
        self.beats, self.watches, self.over = queue.Queue(), queue.Queue(), threading.Event()

    def Heartbeat(self, request, context):
        self.beats.put(caller_of(context.auth_context()).serial)
        return fleet_pb2.HeartbeatResponse()

    def WatchAssignment(self, request, context):
        self.watches.put(caller_of(context.auth_context()).serial)
        yield fleet_pb2.WatchAssignmentResponse()
        context.add_callback(self.over.set)
        self.over.wait(WAIT_S)
        self.over.clear()


def test_a_node_goes_on_with_its_renewed_certificate_without_a_restart(authority, tmp_path, caplog):
    old, new, cloud, stop = authority.issued(CLIENT), authority.issued(CLIENT), Cloud(), threading.Event()
    files = TlsFiles(ca=authority.ca, certificate=tmp_path / "own.pem", key=tmp_path / "own.key")
    put(old, files)
    dialer = Dialer(own=Own(files, "client", "c1"))
    with serving("sync", services_of(fleet=cloud), credentials=credentials_of(authority, CLOUD)) as address:
        link = CloudLink(address, "c1", lambda fleet: 0.05, stop=stop, patience_s=5, dialer=dialer)
        link.start()
        following = threading.Thread(target=lambda: list(link.assignments()))
        following.start()
        assert (cloud.watches.get(timeout=WAIT_S), cloud.beats.get(timeout=WAIT_S)) == (old.serial, old.serial)
        put(new, files)
        assert cloud.watches.get(timeout=WAIT_S) == new.serial
        assert new.serial in [cloud.beats.get(timeout=WAIT_S) for _ in range(cloud.beats.qsize() + 1)]
        link.close()
        following.join(WAIT_S)
        assert not following.is_alive()
    assert "lost" not in caplog.text


def test_a_node_whose_files_are_put_right_while_it_waits_to_register_goes_on_with_them(authority, tmp_path):
    other, asked = Authority(tmp_path / "other"), threading.Event()
    files = TlsFiles(ca=tmp_path / "ca.pem", certificate=tmp_path / "own.pem", key=tmp_path / "own.key")
    files.ca.write_bytes(other.ca.read_bytes())
    put(other.issued(CLIENT), files)

    def register(fleet):
        if asked.is_set():
            put(authority.issued(CLIENT), files)
            files.ca.write_bytes(authority.ca.read_bytes())
        asked.set()
        _beat(fleet)
        return 1.0

    with serving("sync", services_of(fleet=Cloud()), credentials=credentials_of(authority, CLOUD)) as address:
        dialer = Dialer(own=Own(files, "client", "c1"))
        link = CloudLink(address, "c1", register, stop=threading.Event(), patience_s=WAIT_S, dialer=dialer)
        link.start()
        link.close()


@pytest.mark.parametrize("fault", [UnauthenticatedError, HandshakeError])
def test_a_stay_whose_certificate_was_renewed_is_left_for_one_that_shows_the_new_one(authority, tmp_path, fault):
    old, new = authority.issued(CLIENT), authority.issued(CLIENT)
    files = TlsFiles(ca=authority.ca, certificate=tmp_path / "own.pem", key=tmp_path / "own.key")
    put(old, files)
    stays = Stays("run-1", Dialer(own=Own(files, "client", "c1")))
    edge = fleet_pb2.EdgePeer(edge_id="edge-1", address="127.0.0.1:9")
    stays.tell(fleet_pb2.Assignment(run_id="run-1", state=fleet_pb2.RUN_STATE_TRAINING, edges=[edge]))
    with pytest.raises(fault), stays.take(fleet_pb2.RUN_STATE_TRAINING):
        raise fault("the certificate ran out")
    with stays.take(fleet_pb2.RUN_STATE_TRAINING) as stay:
        put(new, files)
        raise fault("the certificate ran out")
    assert stay.over.is_set()
    with pytest.raises(fault), stays.take(fleet_pb2.RUN_STATE_TRAINING):
        raise fault("the new one is refused too")


def put(issued, files):
    files.key.touch(0o600)
    files.key.write_bytes(issued.key_pem)
    files.certificate.write_bytes(issued.certificate_pem)


def _beat(fleet):
    return fleet.Heartbeat(fleet_pb2.HeartbeatRequest(node_id="c1"), timeout=WAIT_S)


@pytest.mark.parametrize(
    "address", ["10.0.0.7:7400", "cloud.example:7400", "[2001:db8::1]:7400", "dns:///x:1", ":7400"]
)
def test_nothing_off_loopback_is_called_without_tls_unless_that_was_spelled_out(authority, address):
    with pytest.raises(AddressError, match=r"without TLS: give --tls-ca, .* or --insecure if everyone"):
        LOOPBACK.connect(address, CLOUD_HOST)
    for may in (Dialer(insecure=True), dialer_of(authority)):
        may.connect(address, CLOUD_HOST).close()


@pytest.mark.parametrize("address", ["127.0.0.1:7400", "127.1.2.3:1", "[::1]:7400", "localhost:7400"])
def test_loopback_is_called_without_tls(address):
    LOOPBACK.connect(address, CLOUD_HOST).close()


def test_callers_refuse_an_address_off_loopback_with_the_dialers_error(authority):
    off = fleet_pb2.EdgePeer(edge_id="edge-1", address="10.0.0.7:1")
    for call in (
        lambda: Operator("10.0.0.7:1", 1),
        lambda: Stay(off),
        lambda: CloudLink("10.0.0.7:1", "c1", _beat, stop=threading.Event(), patience_s=1),
    ):
        with pytest.raises(InputError, match=r"refusing to call 10\.0\.0\.7:1 without TLS"):
            call()
    assert measure([off]) == []
