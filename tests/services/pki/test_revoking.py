"""The list of the revoked is the authority's, grows and never forgets, whoever writes it at the same time."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from cryptography import x509

from elsa.errors import InputError
from services.pki.authority import Authority
from services.pki.certificates import utc_now
from services.pki.keys import read_key
from services.pki.requests import new_request
from services.pki.revocations import (
    Reason,
    entry,
    list_from_pem,
    new_list,
    number_of,
    read_list,
    reason_of,
)
from services.rpc.certificates import is_list_of
from services.rpc.identity import Identity
from services.rpc.revoked import Revoked

CLINIC = Identity("client", "clinic-a")


@pytest.fixture
def revoked(tmp_path):
    """`revoked()`: the list as it stands."""
    return lambda: read_list(tmp_path / "authority" / "crl.pem")


def serials(found):
    return [one.serial_number for one in found]


def test_a_new_authority_has_revoked_nobody_and_says_so_signed(authority, revoked):
    assert serials(revoked()) == []
    assert number_of(revoked()) == 1
    assert is_list_of(revoked(), authority.certificate)


def test_the_list_verifies_under_its_authority_alone(authority, signed, revoked, tmp_path):
    authority.revoke(signed(CLINIC))
    other = Authority.create(tmp_path / "other")
    assert revoked().issuer == other.certificate.subject
    assert is_list_of(revoked(), authority.certificate)
    assert not is_list_of(revoked(), other.certificate)


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_kept(authority, signed, revoked, reason):
    authority.revoke(signed(CLINIC), reason)
    assert [reason_of(one) for one in revoked()] == [reason]


def test_the_list_grows_and_keeps_what_was_said_first(authority, signed, revoked, after):
    first, second = signed(CLINIC), signed(CLINIC)
    now = utc_now()
    assert authority.revoke(first, Reason.SUPERSEDED, clock=lambda: now)
    assert authority.revoke(second.serial_number, clock=after(2))
    assert not authority.revoke(first, Reason.KEY_COMPROMISE, clock=after(3))
    assert serials(revoked()) == [first.serial_number, second.serial_number]
    kept = revoked().get_revoked_certificate_by_serial_number(first.serial_number)
    assert (kept.revocation_date_utc, reason_of(kept)) == (now, "superseded")
    assert number_of(revoked()) == 4


def test_signing_the_list_anew_moves_its_dates_alone(authority, signed, revoked, after):
    certificate = signed(CLINIC)
    authority.revoke(certificate)
    later = after(20)()
    pem = authority.revocations(days=7, clock=lambda: later)
    assert list_from_pem(pem, "list") == revoked()
    assert revoked().next_update_utc == later + timedelta(days=7)
    assert revoked().last_update_utc == later - timedelta(minutes=5)
    assert serials(revoked()) == [certificate.serial_number]


def test_what_another_authority_signed_is_not_revoked_here(authority, revoked, tmp_path):
    other = Authority.create(tmp_path / "other")
    certificate = x509.load_pem_x509_certificate(other.sign(new_request(CLINIC)[1]))
    for given in (certificate, certificate.serial_number, authority.certificate, other.certificate):
        with pytest.raises(InputError, match="issued"):
            authority.revoke(given)
    assert number_of(revoked()) == 1


def test_a_certificate_that_is_forgotten_can_be_revoked_still(authority, signed, revoked, tmp_path):
    certificate = signed(CLINIC)
    for path in (tmp_path / "authority" / "issued").iterdir():
        path.unlink()
    authority.revoke(certificate)
    assert serials(revoked()) == [certificate.serial_number]


@pytest.mark.parametrize("loss", ["removed", "another's", "cut"])
def test_a_lost_list_is_never_begun_anew(authority, signed, tmp_path, loss):
    """An empty one would let the revoked in again."""
    certificate, path = signed(CLINIC), tmp_path / "authority" / "crl.pem"
    if loss == "removed":
        path.unlink()
    else:
        Authority.create(tmp_path / "other")
        other = (tmp_path / "other" / "crl.pem").read_bytes()
        path.write_bytes(other if loss == "another's" else path.read_bytes()[:100])
    for work in (lambda: authority.revoke(certificate), authority.revocations):
        with pytest.raises(InputError, match=r"crl\.pem"):
            work()


def test_who_holds_a_certificate_is_told_until_it_is_revoked_or_ends(authority, signed, after):
    first, second = signed(CLINIC, days=10), signed(CLINIC, days=20)
    signed(Identity("client", "clinic-b"))
    assert {one.serial_number for one in authority.holding(CLINIC)} == {first.serial_number, second.serial_number}
    assert authority.holding(CLINIC, after(15)) == [second]
    authority.revoke(second)
    assert authority.holding(CLINIC) == [first]


def test_none_is_lost_of_many_that_revoke_at_once(authority, signed, revoked, tmp_path):
    certificates = [signed(CLINIC) for _ in range(12)]

    def work(certificate):
        Authority.open(tmp_path / "authority").revoke(certificate)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, certificates))
    assert set(serials(revoked())) == {one.serial_number for one in certificates}
    assert number_of(revoked()) == 13


def test_of_two_names_that_differ_in_case_one_is_signed_when_asked_at_once(authority, tmp_path):
    names = ["clinic", "Clinic", "CLINIC", "cliniC"]
    requests = [new_request(Identity("client", name))[1] for name in names]

    def work(request):
        try:
            return Authority.open(tmp_path / "authority").sign(request)
        except InputError:
            return None

    with ThreadPoolExecutor(4) as pool:
        made = [one for one in pool.map(work, requests) if one is not None]
    assert len(made) == len(authority.issued()) == 1


def test_a_list_of_tens_of_thousands_still_grows(authority, signed, revoked, tmp_path):
    """They stay on it: one that may not grow any more would let the next one that is lost in."""
    many = [entry(serial, Reason.SUPERSEDED, utc_now()) for serial in range(2**158, 2**158 + 25_000)]
    key = read_key(tmp_path / "authority" / "ca.key")
    pem = new_list(authority.certificate, key, many, number=2, days=30, now=utc_now())
    (tmp_path / "authority" / "crl.pem").write_bytes(pem)
    assert len(pem) > 1 << 20
    lost = signed(CLINIC)
    assert authority.revoke(lost)
    assert len(revoked()) == 25_001
    assert Revoked(tmp_path / "authority" / "crl.pem", tmp_path / "authority" / "ca.pem")(lost.serial_number)
