"""A wrapped key opens for its receiver, on its way, unaltered, and for nobody and nothing else."""

import copy
import dataclasses
import pickle
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.errors import MalformedError
from elsa.privacy.keys import Key, KeyPair, Way, wrap

WAY = Way(run_id="run-1", sender="ann", receiver="bob")
NAMES = st.text(min_size=0, max_size=5, alphabet="ab.-0")


@given(st.binary(min_size=32, max_size=32), NAMES, NAMES, NAMES)
def test_unwrapping_inverts_wrapping(secret, run_id, sender, receiver):
    pair, way = KeyPair(), Way(run_id=run_id, sender=sender, receiver=receiver)
    wrapped = wrap(Key(secret), pair.public_key, way)
    assert pair.unwrap(wrapped, way) == Key(secret)
    assert (len(pair.public_key), len(wrapped.public_key), len(wrapped.nonce), len(wrapped.ciphertext)) == (
        32,
        32,
        12,
        48,
    )


def test_no_two_wrappings_have_anything_in_common():
    key, pair = Key.random(), KeyPair()
    one, two = wrap(key, pair.public_key, WAY), wrap(key, pair.public_key, WAY)
    assert one.public_key != two.public_key and one.nonce != two.nonce and one.ciphertext != two.ciphertext
    assert key.secret not in one.ciphertext


def test_a_key_opens_for_its_receiver_alone():
    wrapped = wrap(Key.random(), KeyPair().public_key, WAY)
    with pytest.raises(MalformedError, match="from ann to bob in run run-1 does not open"):
        KeyPair().unwrap(wrapped, WAY)


@pytest.mark.parametrize("other", [{"run_id": "run-2"}, {"sender": "eve"}, {"receiver": "eve"}])
def test_a_key_opens_on_its_own_way_alone(other):
    pair = KeyPair()
    wrapped = wrap(Key.random(), pair.public_key, WAY)
    with pytest.raises(MalformedError, match="does not open"):
        pair.unwrap(wrapped, dataclasses.replace(WAY, **other))


@given(NAMES, NAMES, NAMES, NAMES, NAMES, NAMES)
def test_different_ways_are_bound_differently(a, b, c, d, e, f):
    one, two = Way(run_id=a, sender=b, receiver=c), Way(run_id=d, sender=e, receiver=f)
    assert (one.bound() == two.bound()) == ((a, b, c) == (d, e, f))


@given(st.sampled_from(["public_key", "nonce", "ciphertext"]), st.integers(0, 10_000))
def test_one_altered_bit_is_noticed(part, place):
    pair = KeyPair()
    wrapped = wrap(Key.random(), pair.public_key, WAY)
    altered = bytearray(getattr(wrapped, part))
    bit = place % (8 * len(altered))
    altered[bit // 8] ^= 1 << bit % 8
    with pytest.raises(MalformedError):
        pair.unwrap(dataclasses.replace(wrapped, **{part: bytes(altered)}), WAY)


def test_the_bit_that_x25519_passes_over_is_noticed_too():
    pair = KeyPair()
    wrapped = wrap(Key.random(), pair.public_key, WAY)
    altered = wrapped.public_key[:-1] + bytes([wrapped.public_key[-1] ^ 0x80])
    with pytest.raises(MalformedError, match="does not open"):
        pair.unwrap(dataclasses.replace(wrapped, public_key=altered), WAY)


@pytest.mark.parametrize("part", ["public_key", "nonce", "ciphertext"])
@pytest.mark.parametrize("length", [0, 11, 31, 33, 49])
def test_parts_of_another_length_are_refused_by_name(part, length):
    pair = KeyPair()
    wrapped = wrap(Key.random(), pair.public_key, WAY)
    with pytest.raises(MalformedError, match=rf"wrapped\.{part}: {length} bytes; it must be"):
        pair.unwrap(dataclasses.replace(wrapped, **{part: bytes(length)}), WAY)


@pytest.mark.parametrize("public_key", [b"", bytes(31), bytes(33), bytes(32), bytes([1]) + bytes(31)])
def test_what_is_no_public_key_gets_nothing_wrapped(public_key):
    """Also points of small order, with which anybody agrees on the same secret."""
    with pytest.raises(MalformedError, match="public_key of bob"):
        wrap(Key.random(), public_key, WAY)


def test_an_ephemeral_key_of_small_order_is_refused():
    pair = KeyPair()
    wrapped = wrap(Key.random(), pair.public_key, WAY)
    with pytest.raises(MalformedError, match="no X25519 public key"):
        pair.unwrap(dataclasses.replace(wrapped, public_key=bytes(32)), WAY)


def test_no_error_holds_a_key():
    key, pair = Key(b"\xa7" * 32), KeyPair()
    wrapped = wrap(key, pair.public_key, WAY)
    private = pair._private.private_bytes_raw()
    for act in (
        lambda: KeyPair().unwrap(wrapped, WAY),
        lambda: wrap(key, bytes(32), WAY),
        lambda: pair.unwrap(dataclasses.replace(wrapped, nonce=b""), WAY),
    ):
        with pytest.raises(MalformedError) as caught:
            act()
        text = "".join(traceback.format_exception(caught.value))
        for secret in (key.secret, private):
            assert secret.hex() not in text and repr(secret)[2:-1] not in text


def test_a_private_key_is_neither_printed_nor_moved():
    pair = KeyPair()
    assert repr(pair) == str(pair) == "KeyPair(private)"
    for act in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="lives and dies with its process"):
            act(pair)
