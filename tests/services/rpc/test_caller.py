"""Who calls, read from what gRPC says of a connection."""

from datetime import UTC, datetime, timedelta

import pytest
from certificates import Authority

from elsa.errors import UnauthenticatedError
from services.rpc.caller import CERTIFICATE_KEY, caller_of
from services.rpc.identity import ROLES, Identity


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.mark.parametrize("role", ROLES)
def test_a_caller_is_who_the_certificate_says(authority, role):
    files = authority.issued(Identity(role, "a.b-c_1"), hosts=["edge.example.org", "127.0.0.1"], days=2)
    caller = caller_of({CERTIFICATE_KEY: [files.certificate_pem]})
    assert (caller.identity, caller.serial) == (Identity(role, "a.b-c_1"), files.serial)
    assert abs(caller.not_after - datetime.now(UTC) - timedelta(days=2)) < timedelta(minutes=1)
    assert str(caller) == f"{role} a.b-c_1"


@pytest.mark.parametrize("context", [{}, {CERTIFICATE_KEY: []}, {"x509_common_name": [b"mine"]}])
def test_without_a_certificate_nobody_calls(context):
    with pytest.raises(UnauthenticatedError, match="without a certificate; have one signed"):
        caller_of(context)


def test_a_common_name_is_no_identity(authority):
    for uris in ([], ["http://mine"], ["elsa:client/a", "elsa:client/b"], ["elsa:client/a/b"], ["elsa:nobody/a"]):
        pem = authority.issued(None, uris=uris).certificate_pem
        with pytest.raises(UnauthenticatedError, match=r"identit|is no name"):
            caller_of({CERTIFICATE_KEY: [pem]})


def test_what_is_no_certificate_is_nobody():
    for pem in (b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(UnauthenticatedError, match="cannot be read"):
            caller_of({CERTIFICATE_KEY: [pem]})


def test_a_certificate_is_read_once(authority):
    context = {CERTIFICATE_KEY: [authority.issued(Identity("client", "once")).certificate_pem]}
    assert caller_of(context) is caller_of(context)
