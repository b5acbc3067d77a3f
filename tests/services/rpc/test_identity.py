"""Laws of identities: they are read back from what a certificate says, and nothing else is one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.errors import UnauthenticatedError
from services.rpc.identity import CLOUD_HOST, ROLES, Identity

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True)
IDENTITIES = st.builds(Identity, st.sampled_from(ROLES), NAMES)


@given(IDENTITIES)
def test_an_identity_is_read_back_from_its_uri(identity):
    assert Identity.from_uri(identity.uri) == identity


@given(IDENTITIES, IDENTITIES)
def test_two_servers_have_one_host_name_only_if_they_are_the_same(one, other):
    assert (one.host == other.host) == (one == other or one.role == other.role == "cloud")
    assert one.role != "cloud" or one.host == CLOUD_HOST


WRONG = [
    *(
        "",
        "elsa:",
        "elsa:client",
        "elsa:client/",
        "elsa:/ward-7",
        "elsa:root/ward-7",
        "client/ward-7",
        "ELSA:client/a",
    ),
    *(
        "elsa:client/a/b",
        "elsa:client/..",
        "elsa:client/a b",
        "elsa:client/\nb",
        "elsa:client/*",
        "elsa:client/" + "a" * 64,
    ),
    "https://example/elsa:client/a",
]


@pytest.mark.parametrize("uri", WRONG)
def test_what_is_no_identity_is_refused_on_one_line(uri):
    with pytest.raises(UnauthenticatedError) as raised:
        Identity.from_uri(uri)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


@pytest.mark.parametrize("uris", [[], ["https://example"], ["elsa:client/a", "elsa:admin/a"]])
def test_a_certificate_names_just_one_identity(uris):
    with pytest.raises(UnauthenticatedError, match="elsa pki"):
        Identity.among(uris)
    assert Identity.among([*uris[:1], "elsa:edge/e"][-1:]) == Identity("edge", "e")
