"""The list of revoked certificates: read anew when it changes, the last good one kept, an overdue one told of."""

import os
import threading

import pytest
from certificates import Authority
from rpc_servers import WAIT_S

from elsa.errors import InputError
from services.rpc import revoked as revoked_module
from services.rpc.rereading import REMIND_S, RETRY_S
from services.rpc.revoked import Revoked


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


def write(path, pem):
    aside = path.with_suffix(".new")
    aside.write_bytes(pem)
    aside.replace(path)
    return path


def test_who_is_on_the_list_is_revoked_and_nobody_else(authority, tmp_path):
    revoked = Revoked(write(tmp_path / "crl.pem", authority.crl([3, 5])), authority.ca)
    assert [revoked(serial) for serial in (1, 3, 4, 5)] == [False, True, False, True]


def test_a_new_list_counts_from_the_next_question_on(authority, tmp_path):
    path = write(tmp_path / "crl.pem", authority.crl([]))
    revoked = Revoked(path, authority.ca)
    assert not revoked(3)
    write(path, authority.crl([3]))
    assert revoked(3)
    write(path, authority.crl([]))
    assert not revoked(3)


def test_a_list_that_is_put_there_with_the_time_of_the_one_before_counts(authority, tmp_path):
    path = write(tmp_path / "crl.pem", authority.crl([3]))
    revoked, before = Revoked(path, authority.ca), path.stat()
    newer = tmp_path / "newer.pem"
    newer.write_bytes(authority.crl([4]))
    os.utime(newer, ns=(before.st_atime_ns, before.st_mtime_ns))  # as by cp -p, or from an archive
    newer.replace(path)
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert revoked(4) and not revoked(3)


@pytest.mark.parametrize("bad", ["gone", "half", "foreign", "empty"])
def test_a_list_that_cannot_be_used_leaves_the_one_before_in_force_and_is_told_of_once(
    authority, tmp_path, caplog, bad
):
    path = write(tmp_path / "crl.pem", authority.crl([3]))
    revoked = Revoked(path, authority.ca)
    foreign = Authority(tmp_path / "foreign").crl([])
    if bad == "gone":
        path.unlink()
    else:
        write(path, {"half": authority.crl([3])[:200], "foreign": foreign, "empty": b""}[bad])
    assert revoked(3) and revoked(3) and not revoked(4)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"before stays in force: --tls-crl {path}: " in caplog.text
    write(path, authority.crl([4]))
    assert revoked(4) and not revoked(3)


def test_the_first_list_must_be_usable(authority, tmp_path):
    foreign = Authority(tmp_path / "foreign").crl([])  # of an authority of the same name
    for path, said in (
        (tmp_path / "none.pem", "cannot be read"),
        (write(tmp_path / "text.pem", b"text"), "no list of revoked certificates in PEM"),
        (write(tmp_path / "foreign.pem", foreign), "not signed by the authority in --tls-ca"),
    ):
        with pytest.raises(InputError, match=f"^--tls-crl {path}: .*{said}"):
            Revoked(path, authority.ca)


def test_an_overdue_list_holds_and_is_told_of_once_an_hour(authority, tmp_path, caplog):
    path, now = write(tmp_path / "crl.pem", authority.crl([3], days=-1)), [2e9]
    revoked = Revoked(path, authority.ca, lambda: now[0])
    for later in (0, 1, REMIND_S - 2, 2, REMIND_S):
        now[0] += later
        assert revoked(3)
    assert caplog.text.count("a newer list was due at") == 3
    caplog.clear()
    write(path, authority.crl([3], days=365_0))
    now[0] += REMIND_S
    assert revoked(3) and caplog.text == ""


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another authority of the same name."""
    return Authority(tmp_path_factory.mktemp("other"))


def test_the_lists_of_two_authorities_may_stand_in_one_file(authority, other, tmp_path):
    """As while a fleet goes over from one to the other; neither's revoked get in."""
    both = write(tmp_path / "both.pem", authority.ca.read_bytes() + other.ca.read_bytes())
    path = write(tmp_path / "crl.pem", authority.crl([3]) + b"\n" + other.crl([5]))
    revoked = Revoked(path, both)
    assert [revoked(serial) for serial in (3, 4, 5)] == [True, False, True]


def test_a_list_that_comes_before_its_authority_counts_from_the_authority_on(authority, other, tmp_path, caplog):
    """What the old authority revokes in the same file counts at once."""
    ca, path = write(tmp_path / "ca.pem", authority.ca.read_bytes()), write(tmp_path / "crl.pem", authority.crl([]))
    revoked = Revoked(path, ca)
    write(path, authority.crl([3]) + other.crl([5]))
    assert [revoked(serial) for serial in (3, 5)] == [True, False]
    assert revoked(3) and caplog.text.count("no authority in --tls-ca") == 1
    write(ca, authority.ca.read_bytes() + other.ca.read_bytes())
    assert [revoked(serial) for serial in (3, 4, 5)] == [True, False, True]


def test_a_role_starts_with_a_list_too_many_and_not_with_one_too_few(authority, other, tmp_path, caplog):
    """Of an authority that is not trusted nobody gets in; of one whose list is lost the revoked would."""
    path = write(tmp_path / "crl.pem", authority.crl([3]) + other.crl([5]))
    assert Revoked(path, authority.ca)(3) and "no authority in --tls-ca" in caplog.text
    third = Authority(tmp_path / "third")
    both = write(tmp_path / "both.pem", authority.ca.read_bytes() + third.ca.read_bytes())
    with pytest.raises(InputError, match=r"no authority in --tls-ca .* signed"):
        Revoked(path, both)


def test_an_authority_whose_list_cannot_be_used_keeps_its_list_of_before(authority, other, tmp_path):
    both = write(tmp_path / "both.pem", authority.ca.read_bytes() + other.ca.read_bytes())
    path = write(tmp_path / "crl.pem", authority.crl([3]) + other.crl([5]))
    revoked = Revoked(path, both)
    write(path, authority.crl([4]) + Authority(tmp_path / "third").crl([]))
    assert [revoked(serial) for serial in (3, 4, 5)] == [False, True, True]


def test_a_list_that_could_not_be_read_is_read_again_though_nothing_tells_that_it_changed(
    authority, tmp_path, monkeypatch
):
    path, now, whole = write(tmp_path / "crl.pem", authority.crl([3])), [1e9], revoked_module.read_file
    revoked = Revoked(path, authority.ca, lambda: now[0])

    def failing(flag, path):
        raise InputError(f"{flag} {path}: cannot be read")

    monkeypatch.setattr(revoked_module, "read_file", failing)
    write(path, authority.crl([4]))
    assert revoked(3)
    monkeypatch.setattr(revoked_module, "read_file", whole)
    now[0] += RETRY_S / 2
    assert revoked(3)
    now[0] += RETRY_S
    assert revoked(4) and not revoked(3)


def read_to_the_end():
    for thread in threading.enumerate():
        if thread.name == "revoked":
            thread.join(WAIT_S)


def test_while_a_long_list_is_read_nobody_waits_and_the_one_before_holds(authority, tmp_path, monkeypatch):
    path, whole, gate = write(tmp_path / "crl.pem", authority.crl([3])), revoked_module.read_file, threading.Event()
    revoked = Revoked(path, authority.ca)

    def at_the_gate(flag, path):
        assert gate.wait(WAIT_S)
        return whole(flag, path)

    monkeypatch.setattr(revoked_module, "AT_ONCE_BYTES", 0)
    monkeypatch.setattr(revoked_module, "read_file", at_the_gate)
    write(path, authority.crl([4]))
    assert [revoked(serial) for serial in (3, 4, 3)] == [True, False, True]
    gate.set()
    read_to_the_end()
    assert revoked(4) and not revoked(3)


def test_a_long_list_that_cannot_be_used_is_tried_again_and_told_of_once(authority, tmp_path, monkeypatch, caplog):
    path, now = write(tmp_path / "crl.pem", authority.crl([3])), [1e9]
    revoked = Revoked(path, authority.ca, lambda: now[0])
    monkeypatch.setattr(revoked_module, "AT_ONCE_BYTES", 0)
    write(path, authority.crl([4])[:200])
    for _ in range(3):
        now[0] += 2 * RETRY_S
        assert revoked(3)
        read_to_the_end()
    assert revoked(3) and caplog.text.count("before stays in force") == 1
    write(path, authority.crl([4]))
    revoked(3)
    read_to_the_end()
    assert revoked(4) and not revoked(3)


def test_a_list_that_stays_unusable_is_told_of_once_an_hour(authority, tmp_path, caplog):
    path, now = write(tmp_path / "crl.pem", authority.crl([3])), [1e9]
    revoked = Revoked(path, authority.ca, lambda: now[0])
    write(path, b"text")
    for later in (0, 2 * RETRY_S, REMIND_S - 3 * RETRY_S, 2 * RETRY_S, REMIND_S):
        now[0] += later
        assert revoked(3)
    assert caplog.text.count("before stays in force") == 3


def test_a_second_list_that_is_cut_short_is_not_passed_over(authority, tmp_path):
    path = write(tmp_path / "crl.pem", authority.crl([3]) + authority.crl([5])[:100])
    with pytest.raises(InputError, match="no list of revoked certificates"):
        Revoked(path, authority.ca)


def test_of_two_lists_the_first_that_is_overdue_is_told_of(authority, tmp_path, caplog):
    path = write(tmp_path / "crl.pem", authority.crl([3]) + authority.crl([5], days=-1))
    assert Revoked(path, authority.ca)(5)
    assert "a newer list was due" in caplog.text
