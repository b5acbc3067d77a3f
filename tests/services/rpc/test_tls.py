"""Own certificates: taken if they are good and ours, refused with the reason if not, renewed without a restart."""

import logging
import socket
import ssl
import time
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from certificates import CALL, SERVE, Authority
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rpc_servers import KINDS, WAIT_S, services_of, serving

from elsa.errors import AddressError, InputError, SpecError
from services.client.settings import ClientSettings
from services.cloud.settings import CloudSettings
from services.edge.settings import EdgeSettings
from services.rpc.channel import connect
from services.rpc.identity import ROLES, Identity
from services.rpc.keypair import TlsFiles
from services.rpc.rereading import REMIND_S, RETRY_S
from services.rpc.server import check_host
from services.rpc.tls import DAY_S, Own, channel_credentials, own_certificate, server_credentials

EDGE = Identity("edge", "edge-1")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """Another authority of the same name."""
    return Authority(tmp_path_factory.mktemp("stranger"))


def files_of(issued, **given):
    return TlsFiles(**{"ca": issued.ca, "certificate": issued.certificate, "key": issued.key, **given})


def put(issued, folder):
    """Place a certificate as one that is renewed in place is; its files."""
    for path, name in ((issued.certificate, "own.pem"), (issued.key, "own.key")):
        aside = folder / f".{name}"
        aside.touch(0o600)
        aside.write_bytes(path.read_bytes())
        aside.replace(folder / name)
    return TlsFiles(ca=issued.ca, certificate=folder / "own.pem", key=folder / "own.key")


@pytest.mark.parametrize("role", ROLES)
def test_a_good_certificate_of_ours_is_taken(authority, role):
    identity = Identity(role, "some-one")
    issued = authority.issued(identity)
    found = Own(files_of(issued), role, "some-one").now()
    assert (found.identity, found.serial) == (identity, issued.serial)
    assert Own(files_of(issued), role).now() == found


@pytest.mark.parametrize(
    ("role", "name", "said"),
    [
        ("edge", "edge-2", "is of edge edge-1, and this is edge edge-2; give the certificate that was signed for it"),
        ("client", "edge-1", "is of edge edge-1, and this is client edge-1"),
        ("admin", None, "is of edge edge-1, and this is admin;"),
    ],
)
def test_a_certificate_of_somebody_else_is_refused_at_the_start(authority, role, name, said):
    files = files_of(authority.issued(EDGE))
    with pytest.raises(InputError, match=said) as found:
        Own(files, role, name)
    assert str(found.value).startswith(f"--tls-cert {files.certificate}: ")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("issued", "said"),
    [
        ({"days": -1}, r"expired at \S+ \S+ UTC; have a new one signed \(elsa pki renew\)"),
        ({"eku": [CALL]}, "may not be used to serve; have it signed by elsa pki sign"),
        ({"eku": [SERVE]}, "may not be used to call"),
        ({"uris": ["elsa:client/c1"]}, r"the certificate names 2 identities"),
    ],
)
def test_a_certificate_that_peers_would_refuse_is_refused_at_the_start(authority, issued, said):
    with pytest.raises(InputError, match=f"^--tls-cert .*{said}"):
        Own(files_of(authority.issued(EDGE, **issued)), "edge", "edge-1")


def test_a_certificate_without_an_identity_or_its_host_is_refused(authority):
    with pytest.raises(InputError, match="names 0 identities"):
        Own(files_of(authority.issued(None)), "client")
    bare = authority.issued(None, uris=[EDGE.uri], eku=[SERVE, CALL])
    with pytest.raises(InputError, match=r"lacks the host name edge-1\.edge\.elsa\.internal; have it signed by"):
        Own(files_of(bare), "edge", "edge-1")


def test_a_certificate_is_refused_before_its_time(authority):
    long_ago = time.time() - 86_400
    with pytest.raises(InputError, match=r"valid from .* UTC on; check this machine's clock"):
        Own(files_of(authority.issued(EDGE)), "edge", clock=lambda: long_ago)


def test_a_certificate_of_another_authority_is_refused_even_of_the_same_name(authority, stranger):
    files = files_of(stranger.issued(EDGE), ca=authority.ca)
    with pytest.raises(InputError, match="not signed by the authority in --tls-ca"):
        Own(files, "edge", "edge-1")


def test_one_of_several_authorities_is_enough(authority, stranger, tmp_path):
    both = tmp_path / "ca.pem"
    both.write_bytes(stranger.ca.read_bytes() + authority.ca.read_bytes())
    assert Own(files_of(authority.issued(EDGE), ca=both), "edge").now().identity == EDGE


def test_a_key_that_is_not_the_certificates_is_refused(authority):
    files = files_of(authority.issued(EDGE), key=authority.issued(EDGE).key)
    with pytest.raises(InputError, match=r"^--tls-key .*: not the key of --tls-cert .*\.pem; give the key that"):
        Own(files, "edge", "edge-1")


def test_a_key_with_a_passphrase_is_refused(authority, tmp_path):
    issued = authority.issued(EDGE)
    key = serialization.load_pem_private_key(issued.key_pem, None)
    locked = tmp_path / "locked.key"
    locked.touch(0o600)
    sealed = serialization.BestAvailableEncryption(b"secret")
    form = serialization.PrivateFormat.PKCS8
    locked.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, sealed))
    with pytest.raises(InputError, match="has a passphrase; a service needs a key without one"):
        Own(files_of(issued, key=locked), "edge")


def test_a_key_that_everyone_may_read_is_refused_and_its_group_warned_of(authority, caplog):
    issued = authority.issued(EDGE)
    issued.key.chmod(0o604)
    with pytest.raises(InputError, match=rf"everyone on this machine may use it; chmod 600 {issued.key}$"):
        Own(files_of(issued), "edge")
    issued.key.chmod(0o640)
    Own(files_of(issued), "edge")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "its group may use it too" in caplog.text


@pytest.mark.parametrize(
    ("field", "flag"), [("ca", "--tls-ca"), ("certificate", "--tls-cert"), ("key", "--tls-key"), ("crl", "--tls-crl")]
)
def test_a_file_that_is_not_there_or_holds_something_else_is_named(authority, tmp_path, field, flag):
    issued = authority.issued(EDGE)
    for path, said in (
        (tmp_path / "none", r"cannot be read \(No such file"),
        (tmp_path / "text", r"in PEM( that can be read)?; elsa pki"),
    ):
        if path.name == "text":
            path.touch(0o600)
            path.write_text("no such thing")
        with pytest.raises(InputError, match=rf"^{flag} {path}: .*{said}"):
            own_certificate(files_of(issued, **{field: path}), False, "edge", "edge-1")


def test_a_role_whose_certificate_is_revoked_does_not_start(authority, tmp_path):
    issued, crl = authority.issued(EDGE), tmp_path / "crl.pem"
    crl.write_bytes(authority.crl([issued.serial]))
    with pytest.raises(InputError, match=r": revoked by .*crl\.pem; have another signed"):
        own_certificate(files_of(issued, crl=crl), False, "edge", "edge-1")


def test_the_log_asks_for_a_new_certificate_before_the_old_one_ends(authority, caplog):
    own = files_of(authority.issued(EDGE))
    Own(own, "edge", clock=lambda: time.time() + 0.8 * 86_400)
    assert caplog.text == ""
    Own(own, "edge", clock=lambda: time.time() + 0.95 * 86_400)
    assert "expires at" in caplog.text and "elsa pki renew" in caplog.text


def test_a_role_that_runs_asks_for_a_new_certificate_once_a_day_until_it_has_one(authority, tmp_path, caplog):
    now = [time.time()]
    own = Own(put(authority.issued(EDGE, days=100), tmp_path), "edge", clock=lambda: now[0])
    for later in (0, 89 * DAY_S, 2 * DAY_S, DAY_S / 2, DAY_S / 2):
        now[0] += later
        own.now()
    assert caplog.text.count("elsa pki renew") == 2
    put(authority.issued(EDGE, days=365), tmp_path)
    now[0] += DAY_S
    own.now()
    assert caplog.text.count("elsa pki renew") == 2


def shown(address, caller):
    """The serial number of the certificate that a server shows to a new connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(caller.ca)
    context.load_cert_chain(caller.certificate, caller.key)
    context.set_alpn_protocols(["h2"])
    host, port = address.rsplit(":", 1)
    with (
        socket.create_connection((host, int(port)), WAIT_S) as plain,
        context.wrap_socket(plain, server_hostname=EDGE.host) as secure,
    ):
        der = secure.getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(der).serial_number


@pytest.mark.parametrize("kind", KINDS)
def test_a_renewed_certificate_is_shown_without_a_restart_and_half_of_one_is_not(authority, tmp_path, caplog, kind):
    caplog.set_level(logging.INFO)
    old, new, caller = authority.issued(EDGE), authority.issued(EDGE), authority.issued(Identity("client", "c1"))
    own = Own(put(old, tmp_path), "edge", "edge-1")
    with serving(kind, services_of(), credentials=server_credentials(own)) as address:
        assert shown(address, caller) == old.serial
        put(new, tmp_path).key.write_bytes(old.key_pem)  # the certificate is new, its key not there yet
        assert [shown(address, caller) for _ in range(3)] == [old.serial] * 3
        assert caplog.text.count("the certificate of before stays in use: --tls-key") == 1
        (tmp_path / "own.key").write_bytes(new.key_pem)
        assert [shown(address, caller) for _ in range(3)] == [new.serial] * 3
        assert caplog.text.count("a renewed certificate of edge edge-1 is in use") == 1


def test_a_renewed_certificate_is_taken_once_its_keys_rights_are_put_right(authority, tmp_path, caplog):
    old, new = authority.issued(EDGE), authority.issued(EDGE)
    own = Own(put(old, tmp_path), "edge", "edge-1")
    key = put(new, tmp_path).key
    key.chmod(0o604)
    assert own.now().serial == old.serial and f"chmod 600 {key}" in caplog.text
    key.chmod(0o600)
    assert own.now().serial == new.serial


def test_a_renewed_certificate_is_taken_once_its_time_has_come(authority, tmp_path, caplog):
    """Nothing of its files changes then."""
    old, now = authority.issued(EDGE), [time.time()]
    own = Own(put(old, tmp_path), "edge", "edge-1", clock=lambda: now[0])
    new = authority.issued(EDGE, begun=-timedelta(minutes=5))
    put(new, tmp_path)
    assert own.now().serial == old.serial and "check this machine's clock" in caplog.text
    now[0] += 600
    assert own.now().serial == new.serial


def test_files_that_stay_unusable_are_told_of_once_an_hour(authority, tmp_path, caplog):
    now = [time.time()]
    own = Own(put(authority.issued(EDGE), tmp_path), "edge", clock=lambda: now[0])
    files = put(authority.issued(EDGE), tmp_path)
    files.key.write_bytes(authority.issued(EDGE).key_pem)
    files.key.chmod(0o640)
    for later in (0, 2 * RETRY_S, REMIND_S - 3 * RETRY_S, 2 * RETRY_S, REMIND_S):
        now[0] += later
        own.now()
    assert caplog.text.count("the certificate of before stays in use") == 3
    assert "its group" not in caplog.text, "which would be said with every try"


def test_a_renewed_certificate_of_another_identity_is_not_taken(authority, tmp_path, caplog):
    old = authority.issued(Identity("admin", "ann"))
    own = Own(put(old, tmp_path), "admin")
    put(authority.issued(Identity("admin", "eve")), tmp_path)
    assert own.now().serial == old.serial
    assert "is of admin eve, and this is admin ann" in caplog.text


def test_an_authority_that_is_added_is_trusted_without_a_restart(authority, stranger, tmp_path):
    ca, issued = tmp_path / "ca.pem", authority.issued(EDGE)
    ca.write_bytes(authority.ca.read_bytes())
    own = Own(files_of(issued, ca=ca), "edge", "edge-1")
    both = authority.ca.read_bytes() + stranger.ca.read_bytes()
    ca.write_bytes(both)
    assert (own.now().ca, own.now().serial) == (both, issued.serial)


def healthy(address, credentials):
    with connect(address, credentials, EDGE.host) as channel:
        request = health_pb2.HealthCheckRequest(service="")
        return health_pb2_grpc.HealthStub(channel).Check(request, timeout=WAIT_S).status


@pytest.mark.parametrize("kind", KINDS)
def test_only_callers_with_a_certificate_of_the_authority_are_heard(authority, stranger, kind):
    own = Own(files_of(authority.issued(EDGE)), "edge")
    known = Own(files_of(authority.issued(Identity("client", "c1"))), "client").now()
    foreign = stranger.issued(Identity("client", "c1"))
    bare = grpc.ssl_channel_credentials(known.ca)
    posing = grpc.ssl_channel_credentials(known.ca, foreign.key_pem, foreign.certificate_pem)
    with serving(kind, services_of(), credentials=server_credentials(own)) as address:
        assert healthy(address, channel_credentials(known)) == health_pb2.HealthCheckResponse.SERVING
        for refused in (bare, posing, None):
            with pytest.raises(grpc.RpcError) as found:
                healthy(address, refused)
            assert found.value.code() is grpc.StatusCode.UNAVAILABLE


def test_tls_may_listen_off_loopback_and_nothing_else_may(authority):
    with pytest.raises(AddressError, match=r"--tls-ca.*--insecure"):
        check_host("0.0.0.0", insecure=False)
    own = Own(files_of(authority.issued(EDGE)), "edge")
    with serving("sync", services_of(), credentials=server_credentials(own)) as address:
        assert address.startswith("127.0.0.1:")  # and TLS is spoken on loopback too
        with pytest.raises(grpc.RpcError):
            healthy(address, None)


def test_an_insecure_role_says_so_at_each_start(caplog):
    assert own_certificate(None, True, "edge", "edge-1") is None
    assert [(record.levelname, record.message[:16]) for record in caplog.records] == [("WARNING", "insecure: no TLS")]
    caplog.clear()
    assert own_certificate(None, False, "edge", "edge-1") is None
    assert caplog.records == []


@pytest.mark.parametrize("kind", [CloudSettings, EdgeSettings, ClientSettings])
@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (["tls_ca"], "tls_cert and tls_key are missing"),
        (["tls_cert", "tls_key"], "tls_ca is missing"),
        (["tls_ca", "tls_key"], "tls_cert is missing"),
    ],
)
def test_the_three_files_are_given_together_or_not_at_all(monkeypatch, kind, given, missing):
    for name in given:
        monkeypatch.setenv(f"ELSA_{name.upper()}", "some.pem")
    with pytest.raises(SpecError, match=f"TLS needs tls_ca, tls_cert, tls_key; {missing}$"):
        kind.load()


@pytest.mark.parametrize("kind", [CloudSettings, EdgeSettings])
def test_settings_of_tls_come_from_the_environment_and_empty_ones_are_none(monkeypatch, kind):
    names = ("ELSA_TLS_CA", "ELSA_TLS_CERT", "ELSA_TLS_KEY", "ELSA_TLS_CRL")
    for name in names:
        monkeypatch.setenv(name, "")
    assert kind.load().tls is None
    monkeypatch.setenv("ELSA_TLS_CRL", "crl.pem")
    with pytest.raises(SpecError, match="tls_crl is given without TLS"):
        kind.load()
    for name in names:
        monkeypatch.setenv(name, name.lower())
    paths = [Path(name.lower()) for name in names]
    assert kind.load().tls == TlsFiles(ca=paths[0], certificate=paths[1], key=paths[2], crl=paths[3])
