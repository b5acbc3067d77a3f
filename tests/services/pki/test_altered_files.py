"""Whatever bytes a file holds, it is shown or refused in words: nothing else is raised, no altered request counts."""

import base64

import pytest
from cryptography import x509
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from elsa.errors import ElsaError, MalformedError
from services.pki.authority import Authority
from services.pki.certificates import utc_now
from services.pki.requests import new_request, read_request
from services.pki.revocations import read_list
from services.pki.shown import Against, show
from services.rpc.identity import Identity

pytestmark = [  # what cryptography says of odd bytes that it takes all the same
    pytest.mark.filterwarnings("ignore:Attribute's length must be:UserWarning"),
    pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning"),
]
EDGE = Identity("edge", "edge-1")
CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=3)
KINDS = ("CERTIFICATE", "CERTIFICATE REQUEST", "X509 CRL", "PRIVATE KEY")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A file of each kind, as DER; what they are held against; and a place for altered ones."""
    folder = tmp_path_factory.mktemp("pki")
    authority = Authority.create(folder / "authority")
    key, request = new_request(EDGE, ["edge.example", "10.0.0.1"])
    certificate = authority.sign(request)
    authority.revoke(x509.load_pem_x509_certificate(certificate))
    crl = folder / "authority" / "crl.pem"
    against = Against(authorities=[authority.certificate], revoked=[read_list(crl)], now=utc_now())
    pems = (certificate, request, crl.read_bytes(), key)
    return {kind: der(pem) for kind, pem in zip(KINDS, pems, strict=True)}, against, folder / "altered"


def der(pem):
    return base64.b64decode(b"".join(line for line in pem.splitlines() if not line.startswith(b"--")))


def altered(data, changes):
    """The data as PEM with bytes at some share of their length replaced."""
    new = bytearray(data)
    for place, value in changes:
        new[int(place * len(new))] = value
    return bytes(new)


def pem_of(kind, data):
    return f"-----BEGIN {kind}-----\n".encode() + base64.encodebytes(data) + f"-----END {kind}-----\n".encode()


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("kind", KINDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(changes=CHANGES)
@example(changes=[(0.03125, 128)])  # a certificate's serial number below 0
def test_an_altered_file_is_shown_or_refused(made, kind, changes):
    files, against, path = made
    path.write_bytes(pem_of(kind, altered(files[kind], changes)))
    try:
        show(path, against)
    except ElsaError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    ("kind", "version"), [("CERTIFICATE", b"\2\1\2"), ("CERTIFICATE REQUEST", b"\2\1\0"), ("X509 CRL", b"\2\1\1")]
)
def test_a_version_that_does_not_exist_is_refused(made, kind, version):
    """What parses it raises an exception of its own kind for that."""
    files, against, path = made
    path.write_bytes(pem_of(kind, files[kind].replace(version, b"\2\1\x63", 1)))
    with pytest.raises(ElsaError, match=r"that can be read|no list of revoked certificates"):
        show(path, against)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(changes=CHANGES)
def test_an_altered_request_is_believed_only_where_nothing_changed(made, changes):
    data = made[0]["CERTIFICATE REQUEST"]
    new = altered(data, changes)
    if new == data:
        return
    with pytest.raises(MalformedError):
        read_request(pem_of("CERTIFICATE REQUEST", new))
