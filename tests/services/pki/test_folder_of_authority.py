"""Files of the authority are there whole or not at all; keys are their owner's alone and never written over."""

import os
import stat

import pytest
from cryptography.hazmat.primitives import serialization

from elsa.errors import InputError
from services.pki.authority import Authority
from services.pki.files import write_key
from services.pki.keys import encrypted, key_from_pem, key_to_pem, new_key, read_key
from services.pki.places import write_request
from services.pki.requests import new_request
from services.rpc.identity import Identity

CLINIC = Identity("client", "clinic-a")
RIGHT = b"right and long"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_an_authority_is_made_whole_and_closed_to_others(authority, tmp_path):
    folder = tmp_path / "authority"
    assert names(tmp_path) == ["authority"]
    assert names(folder) == ["ca.key", "ca.pem", "crl.pem", "issued"]
    assert [mode(folder), mode(folder / "issued"), mode(folder / "ca.key")] == [0o700, 0o700, 0o600]


def test_an_authority_opens_as_it_was_made(authority, tmp_path):
    assert Authority.open(tmp_path / "authority").certificate == authority.certificate


@pytest.mark.parametrize("taken", ["folder", "file", "link"])
def test_an_authority_is_never_made_over_something(tmp_path, taken):
    place = tmp_path / "pki"
    {"folder": place.mkdir, "file": place.touch, "link": lambda: place.symlink_to("nowhere")}[taken]()
    with pytest.raises(InputError, match="exists; choose a new --folder"):
        Authority.create(place)
    assert names(tmp_path) == ["pki"]


def test_an_authority_that_cannot_be_made_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="choose another --folder"):
        Authority.create(tmp_path / "nowhere" / "pki")
    for short in (b"", b"elevenchars", "elf Zeichenß".encode()[:-2]):
        with pytest.raises(InputError, match=r"a passphrase of fewer than 12 characters"):
            Authority.create(tmp_path / "pki", passphrase=short)
    with pytest.raises(InputError, match="1023 at most"):
        Authority.create(tmp_path / "pki", passphrase=b"a" * 1024)
    with pytest.raises(InputError, match="--name"):
        Authority.create(tmp_path / "pki", name="a\nb")
    assert names(tmp_path) == []


def test_a_passphrase_is_asked_only_for_a_key_that_has_one(tmp_path):
    Authority.create(tmp_path / "plain")
    Authority.create(tmp_path / "locked", passphrase=RIGHT)
    asked = []
    Authority.open(tmp_path / "plain", lambda: asked.append("plain") or b"")
    Authority.open(tmp_path / "locked", lambda: asked.append("locked") or RIGHT)
    assert asked == ["locked"]
    assert encrypted((tmp_path / "locked" / "ca.key").read_bytes(), "key")
    with pytest.raises(InputError, match=r"ca\.key: the passphrase is wrong"):
        Authority.open(tmp_path / "locked", lambda: b"wrong")


def test_an_authority_of_before_is_read_with_a_short_passphrase(tmp_path):
    """New ones must be longer; keys that exist stay of use."""
    Authority.create(tmp_path / "old")
    place = tmp_path / "old" / "ca.key"
    key, encryption = read_key(place), serialization.BestAvailableEncryption(b"x")
    place.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    assert Authority.open(tmp_path / "old", lambda: b"x").certificate.public_key() == key.public_key()


def test_halves_of_two_authorities_make_none(authority, tmp_path):
    Authority.create(tmp_path / "other")
    (tmp_path / "authority" / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    with pytest.raises(InputError, match=r"ca\.key is not the key of ca\.pem"):
        Authority.open(tmp_path / "authority")


@pytest.mark.parametrize("lost", ["ca.pem", "ca.key"])
def test_an_authority_without_its_halves_is_none(authority, tmp_path, lost):
    (tmp_path / "authority" / lost).unlink()
    with pytest.raises(InputError, match=lost):
        Authority.open(tmp_path / "authority")


@pytest.mark.parametrize("bits", [0o604, 0o602])
def test_a_key_that_is_open_to_everybody_is_refused(authority, tmp_path, bits):
    (tmp_path / "authority" / "ca.key").chmod(bits)
    with pytest.raises(InputError, match="everybody on this machine may read or write this key; chmod 600"):
        Authority.open(tmp_path / "authority")


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_a_key_is_its_owners_alone_whatever_the_mask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_key(tmp_path / "a.key", key_to_pem(new_key()))
    finally:
        os.umask(before)
    assert mode(tmp_path / "a.key") == 0o600
    assert names(tmp_path) == ["a.key"]


def test_a_key_is_never_written_over_a_file_or_through_a_link(tmp_path):
    (tmp_path / "a.key").write_bytes(b"precious")
    (tmp_path / "b.key").symlink_to(tmp_path / "elsewhere")
    for name in ("a.key", "b.key"):
        with pytest.raises(InputError, match="exists, and no key is written over a file"):
            write_key(tmp_path / name, b"new")
    assert (tmp_path / "a.key").read_bytes() == b"precious"
    assert not (tmp_path / "elsewhere").exists()


def test_a_key_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        write_key(tmp_path / "a.key", b"new")
    with pytest.raises(InputError, match="No space left"):
        Authority.create(tmp_path / "pki")
    assert names(tmp_path) == []


@pytest.mark.parametrize("writes", [0, 1])
def test_a_key_and_its_request_are_written_both_or_neither(tmp_path, monkeypatch, writes):
    left = iter(range(writes))

    def full(_):
        if next(left, None) is None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        write_request(tmp_path / "a.csr", CLINIC, (), new_key(), tmp_path / "a.key")
    assert names(tmp_path) == []


def test_a_certificate_that_could_not_be_kept_is_not_given(authority, tmp_path, monkeypatch):
    """One that the authority does not know could not be revoked by its serial."""

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        authority.sign(new_request(CLINIC)[1])
    assert authority.issued() == []
    assert names(tmp_path / "authority" / "issued") == []


def test_a_key_survives_its_file(tmp_path):
    key = new_key()
    write_key(tmp_path / "a.key", key_to_pem(key, RIGHT))
    assert read_key(tmp_path / "a.key", lambda: RIGHT).private_numbers() == key.private_numbers()
    with pytest.raises(InputError, match="is encrypted"):
        read_key(tmp_path / "a.key")


@pytest.mark.parametrize("pem", [b"", b"text", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_is_refused(pem):
    with pytest.raises(InputError, match=r"^a\.key: no private key; give a private key in PEM"):
        key_from_pem(pem, "a.key")
