"""The list of revoked certificates: read anew when it changes, the last good one kept, an overdue one told of."""

import pytest
from certificates import Authority

from elsa.errors import InputError
from services.rpc.revoked import REMIND_S, Revoked


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


def test_the_lists_of_two_authorities_may_stand_in_one_file(authority, tmp_path):
    """As while a fleet goes over from one to the other; neither's revoked get in."""
    other = Authority(tmp_path / "other", "another")
    (both := tmp_path / "both.pem").write_bytes(authority.ca.read_bytes() + other.ca.read_bytes())
    path = write(tmp_path / "crl.pem", authority.crl([3]) + b"\n" + other.crl([5]))
    revoked = Revoked(path, both)
    assert [revoked(serial) for serial in (3, 4, 5)] == [True, False, True]
    with pytest.raises(InputError, match="not signed by the authority"):
        Revoked(path, authority.ca)


def test_a_second_list_that_is_cut_short_is_not_passed_over(authority, tmp_path):
    path = write(tmp_path / "crl.pem", authority.crl([3]) + authority.crl([5])[:100])
    with pytest.raises(InputError, match="no list of revoked certificates"):
        Revoked(path, authority.ca)


def test_of_two_lists_the_first_that_is_overdue_is_told_of(authority, tmp_path, caplog):
    path = write(tmp_path / "crl.pem", authority.crl([3]) + authority.crl([5], days=-1))
    assert Revoked(path, authority.ca)(5)
    assert "a newer list was due" in caplog.text
