"""What the authority signs verifies as it should, and only as it should; a request raises nobody."""

import ipaddress
import re
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elsa.errors import InputError, MalformedError
from services.pki.authority import Authority
from services.pki.certificates import hosts_of, issued_by, utc_now
from services.pki.names import checked_host
from services.pki.requests import new_request, read_request
from services.rpc.certificates import identity_of
from services.rpc.identity import CLOUD_HOST, ROLES, SERVERS, Identity

CLINIC, EDGE = Identity("client", "clinic-a"), Identity("edge", "edge-1")
ADMIN, CLOUD = Identity("admin", "ops"), Identity("cloud", "main")
IDENTITIES = (ADMIN, EDGE, CLINIC, CLOUD)


def verify(authority, certificate, *, host=None, at=None):
    """Raise VerificationError unless the chain holds: for the server called `host`, else for a caller."""
    policy = PolicyBuilder().store(Store([authority.certificate])).time(at or utc_now())
    verifier = policy.build_server_verifier(host) if host is not None else policy.build_client_verifier()
    verifier.verify(certificate, [])


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


def raw_request(*names, key=None, extensions=()):
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "admin root")])
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for one in extensions:
        builder = builder.add_extension(one, critical=True)
    request = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def uri(text):
    return x509.UniformResourceIdentifier(text)


@pytest.mark.parametrize("identity", [ADMIN, EDGE, CLINIC], ids=str)
def test_who_calls_verifies_as_a_caller(authority, signed, identity):
    verify(authority, signed(identity))


@pytest.mark.parametrize(("identity", "host"), [(EDGE, "edge-1.edge.elsa.internal"), (CLOUD, CLOUD_HOST)], ids=str)
def test_a_server_verifies_as_the_host_of_its_identity_and_as_those_it_asked_for(authority, signed, identity, host):
    certificate = signed(identity, "Node.example.", "10.0.0.1", "fd00::1")
    for name in (host, "node.example"):
        verify(authority, certificate, host=x509.DNSName(name))
    for address in ("10.0.0.1", "fd00::1"):
        verify(authority, certificate, host=x509.IPAddress(ipaddress.ip_address(address)))
    with pytest.raises(VerificationError):
        verify(authority, certificate, host=x509.DNSName("other.example"))


def test_the_cloud_verifies_as_no_caller(authority, signed):
    with pytest.raises(VerificationError, match="EKU"):
        verify(authority, signed(CLOUD))


@pytest.mark.parametrize("identity", [ADMIN, CLINIC], ids=str)
def test_who_calls_alone_verifies_as_no_server(authority, signed, identity):
    certificate = signed(identity)
    with pytest.raises(VerificationError):
        verify(authority, certificate, host=x509.DNSName(identity.host))
    assert list(extension(certificate, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_another_authority_of_the_same_name_verifies_nothing(authority, signed, tmp_path):
    other = Authority.create(tmp_path / "other")
    assert other.certificate.subject == authority.certificate.subject
    certificate = signed(CLINIC)
    with pytest.raises(VerificationError):
        verify(other, certificate)
    assert issued_by(certificate, authority.certificate)
    assert not issued_by(certificate, other.certificate)


def test_a_certificate_signs_no_other(authority, signed):
    certificate = signed(EDGE)
    constraints = extension(certificate, x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    usage = extension(certificate, x509.KeyUsage)
    assert usage.critical
    assert (usage.value.digital_signature, usage.value.key_cert_sign, usage.value.crl_sign) == (True, False, False)
    assert extension(authority.certificate, x509.BasicConstraints).value == x509.BasicConstraints(True, 0)
    assert not issued_by(certificate, certificate)


@pytest.mark.parametrize("identity", IDENTITIES, ids=str)
def test_a_certificate_says_who_and_by_which_key(authority, signed, identity):
    certificate = signed(identity)
    assert certificate.version is x509.Version.v3
    assert certificate.subject.rfc4514_string() == f"CN={identity}"
    assert identity_of(certificate) == identity
    own = extension(authority.certificate, x509.SubjectKeyIdentifier).value.key_identifier
    assert extension(certificate, x509.AuthorityKeyIdentifier).value.key_identifier == own
    assert extension(certificate, x509.SubjectKeyIdentifier).value == x509.SubjectKeyIdentifier.from_public_key(
        certificate.public_key()
    )


def test_signing_twice_gives_different_serials_and_keeps_both(authority, signed):
    first, second = signed(CLINIC), signed(CLINIC)
    assert first.serial_number != second.serial_number
    assert sorted(one.serial_number for one in authority.issued()) == sorted(
        (first.serial_number, second.serial_number)
    )


def test_a_certificate_holds_from_a_little_before_now_to_its_end_alone(authority, signed):
    now = utc_now()
    certificate = signed(CLINIC, days=7, clock=lambda: now)
    verify(authority, certificate, at=now - timedelta(minutes=4))
    verify(authority, certificate, at=now + timedelta(days=7))
    for outside in (-timedelta(minutes=6), timedelta(days=7, seconds=1)):
        with pytest.raises(VerificationError):
            verify(authority, certificate, at=now + outside)


def test_nothing_outlives_its_authority(tmp_path, after):
    authority = Authority.create(tmp_path / "short", days=10)
    _, request = new_request(CLINIC)
    certificate = x509.load_pem_x509_certificate(authority.sign(request, days=365, clock=after(9)))
    assert certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc
    for days in (11, -1):
        with pytest.raises(InputError, match="the authority is valid"):
            authority.sign(request, clock=after(days))


def test_a_request_does_not_raise_itself(authority):
    """Its subject and its other extensions are nobody's: the role in its one URI decides all that is signed."""
    wishes = [
        x509.BasicConstraints(ca=True, path_length=None),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]),
    ]
    pem = raw_request(uri("elsa:client/clinic-a"), extensions=wishes)
    certificate = x509.load_pem_x509_certificate(authority.sign(pem))
    assert identity_of(certificate) == CLINIC
    assert certificate.subject.rfc4514_string() == "CN=client clinic-a"
    assert not extension(certificate, x509.BasicConstraints).value.ca
    assert list(extension(certificate, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]


@pytest.mark.parametrize("identity", [ADMIN, CLOUD], ids=str)
def test_an_admin_and_a_cloud_are_signed_only_where_spelled_out(authority, identity):
    _, request = new_request(identity)
    with pytest.raises(InputError, match=f"spell it out: --expect {identity.role}/{identity.name}"):
        authority.sign(request)
    assert authority.issued() == []
    authority.sign(request, expect=identity)


@pytest.mark.parametrize("expected", [EDGE, Identity("client", "clinic-b"), Identity("edge", "clinic-a")], ids=str)
def test_who_is_not_expected_is_not_signed(authority, expected):
    with pytest.raises(InputError, match=f"is for client clinic-a, not for {expected}"):
        authority.sign(new_request(CLINIC)[1], expect=expected)
    assert authority.issued() == []


@pytest.mark.parametrize("other", [("client", "Clinic-A"), ("edge", "clinic-a"), ("edge", "CLINIC-A")])
def test_an_identity_that_would_be_taken_for_another_is_refused(signed, other):
    """Case does not count in a host name, and the cloud knows edges and clients by their names alone."""
    signed(CLINIC)
    with pytest.raises(InputError, match="client clinic-a, who has a certificate, would be taken for"):
        signed(Identity(*other))


def test_an_admin_may_have_a_clients_name(authority, signed):
    signed(CLINIC)
    admin = Identity("admin", "clinic-a")
    authority.sign(new_request(admin)[1], expect=admin)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "names no identity"),
        ((x509.DNSName("a.example"),), "just one identity"),
        ((uri("elsa:client/a"), uri("elsa:client/b")), "just one identity"),
        ((uri("elsa:client/a"), uri("elsa:admin/a")), "just one identity"),
        ((uri("elsa:client/a"), uri("https://a.example")), "just one identity"),
        ((uri("ELSA:client/a"),), "just one identity"),
        ((uri("elsa:root/a"),), "is no identity"),
        ((uri("elsa:client/"),), "is no name"),
        ((uri("elsa:client/a/b"),), "is no name"),
        ((uri("elsa:client/a"), x509.RFC822Name("a@a.example")), "asks for a RFC822Name"),
        ((uri("elsa:client/a"), x509.DNSName("a.example")), "serves nobody"),
        ((uri("elsa:edge/a"), x509.DNSName(CLOUD_HOST)), "is not edge a's"),
        ((uri("elsa:edge/a"), x509.DNSName("B.Edge.elsa.internal")), "is not edge a's"),
        ((uri("elsa:edge/a"), x509.DNSName("*.elsa.internal")), "is no name of a host"),
        ((uri("elsa:edge/a..b"),), "is no host name"),
    ],
)
def test_a_request_that_names_what_it_may_not_is_refused(authority, names, said):
    with pytest.raises(MalformedError, match=f"^the request: .*{re.escape(said)}.*; make it by elsa pki request"):
        authority.sign(raw_request(*names))
    assert authority.issued() == []


def test_a_request_that_was_altered_is_refused(authority):
    der = x509.load_pem_x509_csr(new_request(CLINIC)[1]).public_bytes(serialization.Encoding.DER)
    assert der.count(b"elsa:client/clinic-a") == 1
    altered = x509.load_der_x509_csr(der.replace(b"elsa:client/clinic-a", b"elsa:client/clinic-b"))
    with pytest.raises(MalformedError, match="its signature is not by its key"):
        authority.sign(altered.public_bytes(serialization.Encoding.PEM))


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)])
def test_a_key_of_another_kind_is_refused(authority, key):
    with pytest.raises(MalformedError, match=r"is not of EC P-256"):
        authority.sign(raw_request(uri(CLINIC.uri), key=key))


@given(st.binary(max_size=300))
def test_bytes_that_are_no_request_are_refused(data):
    with pytest.raises(MalformedError, match="no request for a certificate in PEM"):
        read_request(b"-----BEGIN CERTIFICATE REQUEST-----\n" + data + b"\n-----END CERTIFICATE REQUEST-----\n")


LABEL = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,20}[A-Za-z0-9])?", fullmatch=True)
DNS = st.lists(LABEL, min_size=1, max_size=4).map(".".join).filter(lambda name: not name.split(".")[-1].isdigit())
ADDRESS = st.ip_addresses().filter(lambda address: not address.is_unspecified).map(str)
NAME = st.lists(LABEL, min_size=1, max_size=3).map(".".join).filter(lambda name: len(name) <= 63)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(role=st.sampled_from(ROLES), name=NAME, hosts=st.lists(DNS | ADDRESS, max_size=5))
def test_identity_and_hosts_survive_from_request_to_certificate(tmp_path_factory, role, name, hosts):
    authority = Authority.create(tmp_path_factory.mktemp("authority") / "pki")
    identity = Identity(role, name)
    hosts = hosts if role in SERVERS else []
    _, request = new_request(identity, hosts)
    certificate = x509.load_pem_x509_certificate(authority.sign(request, expect=identity))
    wanted = {checked_host(host) for host in hosts} - {identity.host.lower()}
    assert identity_of(certificate) == identity
    assert set(read_request(request).hosts) == set(hosts_of(certificate)) == wanted
    assert len(hosts_of(certificate)) == len(wanted)


def test_a_long_name_is_whole_where_it_counts(signed):
    identity = Identity("client", "n" * 63)
    certificate = signed(identity)
    assert identity_of(certificate) == identity
    assert certificate.subject.rfc4514_string() == "CN=client " + "n" * 57


@pytest.mark.parametrize(
    "host",
    [
        *(
            "",
            ".",
            "*",
            "*.example",
            "a b",
            "a..b",
            "-a",
            "a-",
            "ü.example",
            "1.2.3",
            "0.0.0.0",
            "::",
            "fe80::1%eth0",
        ),
        *("edge.example:7401", "http://a", "10.0.0.0/8", "a" * 64, "a." * 130, "a\n", "a\0b"),
    ],
)
def test_what_is_no_host_is_refused(host):
    with pytest.raises(InputError, match="give a DNS name in ASCII or an IP address"):
        new_request(EDGE, [host])


def test_too_many_hosts_are_refused():
    new_request(EDGE, [f"h{number}.example" for number in range(64)])
    with pytest.raises(InputError, match="65 hosts are more"):
        new_request(EDGE, [f"h{number}.example" for number in range(65)])
