"""TLS, roles, clocks and versions between a machine and real servers, good and bad in one way each."""

import http.server
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ObjectIdentifier
from doctor_harness import of, tls_of
from fleet_harness import cloud_serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rpc_servers import services_of, serving

from elsa.v1 import run_pb2, run_pb2_grpc
from services.doctor import answers, asking, secure
from services.doctor.examination import examine
from services.doctor.peer import Peer
from services.doctor.subject import Instruments, Subject
from services.rpc.identity import Identity
from services.rpc.introduction import Introduction
from services.rpc.keypair import TlsFiles
from services.rpc.tls import Own, server_credentials

ALL_KINDS = ["name", "port", "TLS", "TLS", "role", "role", "clock", "version", "model", "memory"]


class Runs(run_pb2_grpc.RunServiceServicer):
    def ListRuns(self, request, context):
        return run_pb2.ListRunsResponse()


@pytest.mark.parametrize(("role", "name"), [("admin", "ops"), ("edge", "edge-1"), ("client", "ann")])
def test_a_good_machine_has_nothing_bad(of_cloud, verdicts, role, name):
    findings = of_cloud(role, name)
    assert verdicts(findings) == []
    assert [each.kind for each in findings] == ALL_KINDS
    assert [each.verdict for each in findings[:8]] == ["good"] * 8
    assert of(findings, "clock", "good").what.startswith("its clock is 0.")


def test_asking_changes_nothing(of_cloud, authority, cloud):
    """No node is registered, none is heard."""
    of_cloud("edge", "edge-1"), of_cloud("client", "ann")
    ops = Own(tls_of(authority.issued(Identity("admin", "ops"))), "admin").now()
    assert asking.edges_of(Peer(server="cloud", address=cloud), ops, 5) == []


def test_another_role_than_the_certificates_is_bad(of_cloud, authority, verdicts):
    ann = tls_of(authority.issued(Identity("client", "ann")))
    findings = of_cloud("admin", "ops", files=ann)
    assert verdicts(findings) == [("role", "bad")]
    assert "is of client ann, and this is to be admin ops" in of(findings, "role").what
    findings = of_cloud("client", "bob", files=ann)
    assert "is of client ann, and this is to be client bob" in of(findings, "role").what


def test_a_revoked_certificate_is_told_by_the_server_and_by_our_own_list(of_cloud, authority, crl, verdicts):
    issued = authority.issued(Identity("admin", "ops"))
    crl.write_bytes(authority.crl([issued.serial]))
    try:
        findings = of_cloud(files=tls_of(issued))
        assert verdicts(findings) == [("TLS", "bad")]
        assert "refuses us: the certificate of admin ops is revoked" in of(findings, "TLS").what
        assert not [each for each in findings if "takes ours" in each.what or "can be used" in each.what]
        findings = of_cloud(files=tls_of(issued, crl))
        assert verdicts(findings) == [("TLS", "bad")]
        assert "revoked by" in of(findings, "TLS").what
    finally:
        crl.write_bytes(authority.crl([]))


def test_a_server_that_our_list_revokes_is_bad(of_cloud, authority, crl, tmp_path, verdicts):
    own = authority.issued(Identity("cloud", "lost"))
    crl.write_bytes(authority.crl([own.serial]))
    try:
        with serving("sync", services_of(runs=Runs()), credentials=credentials(own, "cloud")) as address:
            ops = authority.issued(Identity("admin", "ops"))
            assert verdicts(of_cloud(address=address, files=tls_of(ops))) == []
            found = of(of_cloud(address=address, files=tls_of(ops, crl)), "TLS")
        assert "cloud lost that" in found.what and "revokes" in found.what
    finally:
        crl.write_bytes(authority.crl([]))


def test_our_own_expired_certificate_is_told_and_the_server_is_looked_at_still(of_cloud, authority):
    findings = of_cloud(files=tls_of(authority.issued(Identity("admin", "ops"), days=-1)))
    ours = of(findings, "TLS")  # one bad line, though the server does not take it either
    assert "expired at" in ours.what and "renew" in ours.remedy
    assert "does not take our certificate" in of(findings, "TLS", "skipped").what
    assert not [each for each in findings if each.kind == "version"]


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [
        ("ca", "copy ca.pem here"),
        ("certificate", "elsa pki request admin ops, and elsa pki sign"),
        ("key", "elsa pki renew --new-key"),
        ("crl", "copy crl.pem here"),
    ],
)
def test_a_file_that_is_not_there_is_told_once_with_how_one_comes_by_it(
    of_cloud, authority, crl, tmp_path, setting, remedy
):
    files = tls_of(authority.issued(Identity("admin", "ops")), crl)
    flag = {"certificate": "tls_cert"}.get(setting, f"tls_{setting}")
    found = of(of_cloud(files=replace(files, **{setting: tmp_path / "none.pem"})), "TLS")
    assert f"--{flag.replace('_', '-')} {tmp_path}/none.pem: cannot be read (No such file" in found.what
    assert remedy in found.remedy and f"{flag} or ELSA_{flag.upper()}" in found.remedy
    assert found.of == "this machine"


def test_a_list_that_is_overdue_is_warned_of(of_cloud, authority, tmp_path, verdicts):
    (tmp_path / "crl.pem").write_bytes(authority.crl([], days=-1))
    findings = of_cloud(files=tls_of(authority.issued(Identity("admin", "ops")), tmp_path / "crl.pem"))
    assert verdicts(findings) == [("TLS", "warn")]
    assert "a newer list was due at" in of(findings, "TLS", "warn").what


def test_every_file_that_is_not_there_is_told(of_cloud, tmp_path, verdicts):
    files = TlsFiles(ca=tmp_path / "a", certificate=tmp_path / "b", key=tmp_path / "c", crl=tmp_path / "d")
    assert verdicts(of_cloud(files=files)) == [("TLS", "bad")] * 4


def test_an_authority_that_cannot_be_read_is_told_once(of_cloud, authority, tmp_path, verdicts):
    (tmp_path / "ca.pem").write_text("none")
    files = replace(tls_of(authority.issued(Identity("admin", "ops"))), ca=tmp_path / "ca.pem")
    findings = of_cloud(files=files)
    assert verdicts(findings) == [("TLS", "bad")]
    assert "held against nothing" in of(findings, "TLS", "skipped").what


def test_an_authority_that_signed_neither_side_is_told_once(of_cloud, authority, stranger, verdicts):
    files = replace(tls_of(authority.issued(Identity("admin", "ops"))), ca=stranger.ca)
    findings = of_cloud(files=files)
    assert verdicts(findings) == [("TLS", "bad")]
    assert "not signed by the authority in --tls-ca" in of(findings, "TLS").what
    assert "of the authority that signed ours" in of(findings, "TLS", "skipped").what


@pytest.mark.parametrize(
    ("days", "ahead_s", "said"),
    [(-1, 0, "have both run out, ours at"), (1, -3600, "are both not valid yet, ours from")],
)
def test_where_both_certificates_are_out_of_their_time_our_clock_is_doubted(of_cloud, authority, days, ahead_s, said):
    """gRPC, which goes by the system's clock, would not shake hands to ask for the time."""
    ours = tls_of(authority.issued(Identity("admin", "ops"), days=days))
    by = Instruments(clock=lambda: time.time() + ahead_s)
    with Showing(authority.issued(Identity("cloud", "main"), days=days)) as address:
        findings = of_cloud(address=address, files=ours, by=by)
    found = of(findings, "clock", "warn")
    assert said in found.what and "NTP" in found.remedy
    assert not [each for each in findings if each.kind == "version"]


def test_where_theirs_alone_is_out_of_its_time_nothing_is_said_of_clocks(of_cloud, authority):
    with Showing(authority.issued(Identity("cloud", "main"), days=-1)) as address:
        findings = of_cloud(address=address)
    assert "expired at" in of(findings, "TLS").what
    assert not [each for each in findings if each.kind == "clock"]


def test_a_server_that_does_not_take_ours_is_bad(of_cloud, stranger, authority, tmp_path):
    """Ours is good by our own authorities, and the server trusts another alone."""
    issued = stranger.issued(Identity("admin", "ops"))
    both = tmp_path / "both.pem"
    both.write_bytes(stranger.ca.read_bytes() + authority.ca.read_bytes())
    files = tls_of(issued)
    findings = of_cloud(files=type(files)(ca=both, certificate=files.certificate, key=files.key))
    assert "ends the connection once it has seen ours" in of(findings, "TLS").what


def test_a_server_of_another_authority_is_bad(of_cloud, stranger):
    found = of(of_cloud(files=tls_of(stranger.issued(Identity("admin", "ops")))), "TLS")
    assert "certificate of another authority" in found.what and "one authority" in found.remedy


@pytest.mark.parametrize(
    ("identity", "given", "said"),
    [
        (Identity("cloud", "main"), {"days": -1}, "shows a certificate that expired at"),
        (Identity("edge", "edge-1"), {}, "shows the certificate of edge edge-1, and cloud should be there"),
        (Identity("client", "ann"), {}, "shows the certificate of client ann, which may not serve"),
    ],
)
def test_a_server_with_a_wrong_certificate_is_bad(of_cloud, authority, identity, given, said):
    with Showing(authority.issued(identity, **given)) as address:
        assert said in of(of_cloud(address=address), "TLS").what


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_a_server_whose_certificate_cannot_be_read_is_bad(of_cloud, authority):
    """It holds a name of a kind that is not understood: an x400Address."""
    own = authority.issued(Identity("cloud", "main"), odd=[x509.RegisteredID(ObjectIdentifier("1.2.3.4"))])
    der = x509.load_pem_x509_certificate(own.certificate_pem).public_bytes(Encoding.DER)
    odd = der.replace(b"\x88\x03\x2a\x03\x04", b"\xa3\x03\x2a\x03\x04")
    assert odd != der
    own.certificate.write_bytes(ssl.DER_cert_to_PEM_cert(odd).encode())
    with Showing(own) as address:
        found = of(of_cloud(address=address), "TLS")
    assert "shows a certificate that cannot be read" in found.what and found.remedy


@pytest.fixture(scope="module")
def shown(authority):
    """The certificate of a cloud as DER, and what it is held against."""
    own = authority.issued(Identity("cloud", "main"))
    return ssl.PEM_cert_to_DER_cert(own.certificate_pem.decode()), tls_of(own)


@pytest.mark.filterwarnings("ignore:Attribute's length must be:UserWarning")
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(place=st.integers(0, 10_000), byte=st.integers(0, 255), peer=st.sampled_from(("cloud", "edge")))
def test_an_altered_certificate_of_a_server_is_bad_in_words(shown, place, byte, peer):
    der, files = shown
    altered = bytearray(der)
    altered[place % len(der)] = byte
    shaken = secure.Handshake.of(bytes(altered), taken=True)
    for given_files in (files, None):
        found = secure.check_tls(Peer(server=peer, address="a:1"), shaken, given_files, time.time())
        assert found.verdict == "bad" or (bytes(altered) == der and peer == "cloud")


@pytest.mark.parametrize("kind", ["sync", "aio"])
def test_a_server_without_tls_is_told(of_cloud, verdicts, kind):
    with serving(kind, services_of(runs=Runs())) as address:
        findings = of_cloud(address=address)
    assert verdicts(findings) == [("TLS", "bad")]
    found = of(findings, "TLS")
    assert "HTTP/2 without TLS" in found.what and "set tls_ca, tls_cert and tls_key there" in found.remedy


class Pages(http.server.BaseHTTPRequestHandler):
    """A web server, which answers all that it does not know as Python's does."""

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("ours", ["with TLS", "without TLS"])
def test_a_web_server_is_told_as_such(of_cloud, verdicts, ours):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"127.0.0.1:{server.server_address[1]}"
        try:
            if ours == "with TLS":
                findings = of_cloud(address=address)
            else:
                findings = list(examine(Subject(role="admin", cloud=Peer(server="cloud", address=address))))
        finally:
            server.shutdown()
            thread.join(10)
    assert verdicts(findings) == [("port", "bad")]
    found = of(findings, "port")
    assert "is a web server" in found.what and "--cloud (setting cloud, ELSA_CLOUD)" in found.remedy


def test_what_speaks_neither_tls_nor_http_is_told(verdicts):
    """As a server of mail would greet."""
    with greeting(b"220 mail.example ESMTP") as address:
        findings = list(examine(Subject(role="admin", cloud=Peer(server="cloud", address=address))))
    assert verdicts(findings) == [("port", "bad")]
    assert "speaks no HTTP/2 without TLS" in of(findings, "port").what


def test_a_server_with_tls_is_told_to_who_has_none(cloud, verdicts):
    findings = list(examine(Subject(role="admin", cloud=Peer(server="cloud", address=cloud))))
    assert verdicts(findings) == [("TLS", "bad")]
    assert "speaks TLS, as cloud main" in of(findings, "TLS").what


def test_without_tls_on_loopback_nothing_is_bad(tmp_path, verdicts):
    with cloud_serving(tmp_path) as address:
        findings = list(examine(Subject(role="admin", cloud=Peer(server="cloud", address=address))))
    assert verdicts(findings) == []
    assert "without TLS it asks nobody who they are" in of(findings, "role", "skipped").what


def test_without_tls_off_loopback_no_role_would_call():
    found = secure.check_tls(Peer(server="cloud", address="cloud.example:7400"), secure.Handshake(), None, 0)
    assert found.verdict == "bad" and "no role would call it" in found.what
    found = secure.check_tls(
        Peer(server="cloud", address="cloud.example:7400"), secure.Handshake(), None, 0, insecure=True
    )
    assert found.verdict == "warn"


@pytest.mark.parametrize(
    ("skew_s", "verdict"), [(0, "good"), (20, "warn"), (-20, "warn"), (400, "bad"), (-400, "bad")]
)
def test_clocks_apart_are_told(of_cloud, skew_s, verdict):
    findings = of_cloud(by=Instruments(clock=lambda: time.time() - skew_s))
    found = of(findings, "clock", verdict)
    assert ("ahead of" in found.what) == (skew_s > 0) or not skew_s
    if skew_s:
        assert f"is {abs(skew_s)}." in found.what or f"is {abs(skew_s) - 1}.9" in found.what
        assert "NTP" in found.remedy


@pytest.mark.parametrize("stamp", ["9" * 400, "9" * 5000, "9" * 16, "²", "-1", "1.5", ""])
def test_a_time_that_no_clock_tells_is_none(authority, of_cloud, monkeypatch, stamp):
    monkeypatch.setattr(Introduction, "__call__", lambda _: (("elsa-version", "1.0.0"), ("elsa-unix-ms", stamp)))
    own = authority.issued(Identity("cloud", "main"))
    with serving(
        "sync", services_of(runs=Runs()), credentials=credentials(own, "cloud"), introduction=Introduction()
    ) as address:
        assert of(of_cloud(address=address), "clock", "skipped").what == "it told no time"


def test_a_slow_call_is_no_skew():
    answer = asking.Answer(code=answers.ANSWERED[0], clock_s=7.0, unsure_s=6.0)
    assert answers.check_clock(Peer(server="cloud", address="a:1"), answer).verdict == "good"


@pytest.mark.parametrize(
    ("theirs", "own", "verdict"),
    [
        ("1.2.3", "1.2.0", "good"),
        ("1.3.0", "1.2.0", "bad"),
        ("2.2.0", "1.2.0", "bad"),
        ("1.20.0", "1.2.0", "bad"),
        ("", "1.2.0", "skipped"),
        ("unknown", "1.2.0", "warn"),
    ],
)
def test_versions_go_together_by_major_and_minor(theirs, own, verdict):
    answer = asking.Answer(code=answers.ANSWERED[0], version=theirs)
    assert answers.check_version(Peer(server="cloud", address="a:1"), answer, own).verdict == verdict


def test_a_server_of_another_version_is_bad(authority, of_cloud, monkeypatch):
    monkeypatch.setattr("services.rpc.introduction.own_version", lambda: "7.1.0")
    other = Introduction()
    monkeypatch.undo()
    own = authority.issued(Identity("cloud", "main"))
    with serving(
        "sync", services_of(runs=Runs()), credentials=credentials(own, "cloud"), introduction=other
    ) as address:
        found = of(of_cloud(address=address), "version")
    assert "has version '7.1.0'" in found.what


def test_a_server_that_is_no_cloud_is_told(authority, of_cloud):
    own = authority.issued(Identity("cloud", "main"))
    with serving("sync", services_of(), credentials=credentials(own, "cloud")) as address:
        found = of(of_cloud(address=address), "port")
    assert "answers as no cloud of ELSA does (UNIMPLEMENTED" in found.what


def test_a_server_that_hangs_is_waited_for_so_long_alone(of_cloud):
    """It takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        begin = time.monotonic()
        findings = of_cloud(address=f"127.0.0.1:{server.getsockname()[1]}", timeout_s=0.5)
    assert time.monotonic() - begin < 10
    assert "speaks neither TLS nor HTTP/2 (no handshake in 0.5 s)" in of(findings, "TLS").what


@contextmanager
def greeting(words):
    """The address of a server that greets with these words, and hears nothing."""

    def serve():
        while True:
            try:
                taken, _ = server.accept()
            except OSError:
                return
            with taken, suppress(OSError):
                taken.sendall(words)
                taken.recv(1000)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def credentials(issued, role):
    return server_credentials(Own(tls_of(issued), role))


class Showing:
    """A server of TLS that shows any certificate, also one that no role would start with; gives its address."""

    def __init__(self, issued):
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(issued.certificate, issued.key)
        self._context.set_alpn_protocols(["h2"])
        self._server = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)

    def _serve(self):
        while True:
            try:
                plain, _ = self._server.accept()
            except OSError:
                return
            with plain, suppress(OSError), self._context.wrap_socket(plain, server_side=True) as secured:
                secured.recv(100)
                secured.sendall(b"\0\0\0\4\0\0\0\0\0")

    def __enter__(self):
        self._thread.start()
        return f"127.0.0.1:{self._server.getsockname()[1]}"

    def __exit__(self, *_):
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(10)
