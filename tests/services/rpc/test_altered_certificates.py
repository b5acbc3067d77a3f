"""Certificates and lists whose bytes were altered: refused in words, never by another error, and nobody gets in."""

import base64
from datetime import UTC, datetime

import pytest
from certificates import Authority
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elsa.errors import InputError, UnauthenticatedError
from services.rpc.caller import CERTIFICATE_KEY, caller_of
from services.rpc.identity import Identity
from services.rpc.keypair import TlsFiles, read_keypair
from services.rpc.revoked import Revoked
from services.rpc.tls import Own

pytestmark = [  # what cryptography says of odd bytes that it takes all the same
    pytest.mark.filterwarnings("ignore:Attribute's length must be:UserWarning"),
    pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning"),
]
EDGE = Identity("edge", "edge-1")
change = given(place=st.integers(0, 10_000), byte=st.integers(0, 255))
often = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def issued(authority):
    return authority.issued(EDGE)


def altered(pem, place, byte):
    """The PEM with one byte of what it holds changed."""
    first, *body, last = pem.strip().splitlines()
    data = bytearray(base64.b64decode(b"".join(body)))
    data[place % len(data)] = byte
    return b"\n".join([first, base64.encodebytes(bytes(data)).strip(), last, b""])


@change
@often
def test_an_altered_certificate_of_ours_is_refused_in_words(issued, tmp_path, place, byte):
    pem = issued.certificate_pem
    file = tmp_path / "own.pem"
    file.write_bytes(altered(pem, place, byte))
    files = TlsFiles(ca=issued.ca, certificate=file, key=issued.key)
    try:
        read_keypair(files, "edge", "edge-1", datetime.now(UTC))
    except InputError:
        return
    assert altered(pem, place, byte).split() == altered(pem, place, altered_byte(pem, place)).split()


def altered_byte(pem, place):
    """The byte that stands there."""
    _, *body, _ = pem.strip().splitlines()
    data = base64.b64decode(b"".join(body))
    return data[place % len(data)]


@change
@often
def test_an_altered_certificate_leaves_the_one_before_in_use(issued, tmp_path, place, byte):
    file = tmp_path / "own.pem"
    file.write_bytes(issued.certificate_pem)
    own = Own(TlsFiles(ca=issued.ca, certificate=file, key=issued.key), "edge")
    before = own.now()
    aside = tmp_path / "aside"
    aside.write_bytes(altered(issued.certificate_pem, place, byte))
    aside.replace(file)
    assert own.now().identity == before.identity and own.now().serial == before.serial


@change
@often
def test_an_altered_authority_is_refused_in_words_or_has_its_name_and_key_still(
    authority, issued, tmp_path, place, byte
):
    """Its own signature and its extensions are not looked at: the file is what is trusted, and it is ours."""
    ca = tmp_path / "ca.pem"
    ca.write_bytes(altered(issued.ca_pem, place, byte))
    try:
        read_keypair(TlsFiles(ca=ca, certificate=issued.certificate, key=issued.key), "edge", None, datetime.now(UTC))
    except InputError:
        return
    taken = x509.load_pem_x509_certificate(ca.read_bytes())
    assert (taken.subject, taken.public_key()) == (authority.subject, authority.key.public_key())


@change
@often
def test_an_altered_key_is_refused_in_words(issued, tmp_path, place, byte):
    key = tmp_path / "own.key"
    key.touch(0o600)
    key.write_bytes(altered(issued.key_pem, place, byte))
    try:
        read_keypair(TlsFiles(ca=issued.ca, certificate=issued.certificate, key=key), "edge", None, datetime.now(UTC))
    except InputError:
        return


@change
@often
def test_an_altered_list_is_refused_in_words(authority, tmp_path, place, byte):
    pem = authority.crl([3, 5])
    crl = tmp_path / "crl.pem"
    crl.write_bytes(altered(pem, place, byte))
    try:
        revoked = Revoked(crl, authority.ca)
    except InputError:
        return
    assert revoked(3) and revoked(5)


@change
@often
def test_a_callers_certificate_that_cannot_be_read_is_no_callers(issued, place, byte):
    """TLS lets none through that was altered; an authority of somebody's own may sign odd ones."""
    try:
        caller_of({CERTIFICATE_KEY: [altered(issued.certificate_pem, place, byte)]})
    except UnauthenticatedError:
        return
