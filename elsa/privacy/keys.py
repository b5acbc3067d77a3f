"""The secret that turns follow from, and how one client hands it to another through servers that must not read it.

A key is wrapped for its receiver alone: an ephemeral X25519 key agrees with the receiver's public key, HKDF-SHA256
makes of that a key for AES-256-GCM, and run, sender and receiver are bound to the result. docs/privacy.md says what
this protects from: who relays a wrapped key can lose it or swap public keys, but not read a key from what it relays.
"""

import hmac
import os
import secrets
from dataclasses import dataclass
from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from elsa.errors import MalformedError

SECRET_BYTES = 32
PUBLIC_KEY_BYTES = 32
NONCE_BYTES = 12
WRAPPED_BYTES = SECRET_BYTES + 16  # with the tag of GCM
_PURPOSE = b"elsa/wrapped-key/v1"


class Key:
    """A secret of 32 bytes. Nothing that prints, logs, copies or pickles a key shows or moves its bytes.

    Raises MalformedError for another length.
    """

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise MalformedError(f"secret: {len(secret)} bytes; it must be {SECRET_BYTES}")
        self._secret = bytes(secret)

    @classmethod
    def random(cls) -> "Key":
        """A new key, of the operating system's randomness."""
        return cls(secrets.token_bytes(SECRET_BYTES))

    @property
    def secret(self) -> bytes:
        """The bytes. For the turn and for wrapping alone: never to be logged or kept."""
        return self._secret

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and hmac.compare_digest(self._secret, other._secret)

    __hash__ = None  # type: ignore[assignment]  # a hash of the secret would be one more place where it shows

    def __repr__(self) -> str:
        return "Key(secret)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not copied or pickled; hand on the object, or wrap it for its receiver")


@dataclass(frozen=True, kw_only=True)
class Way:
    """Between whom a key travels, and for which run: bound to the wrapped key."""

    run_id: str
    sender: str
    receiver: str

    def bound(self) -> bytes:
        """The names, each after its length, so that no two ways give the same bytes."""
        names = [name.encode() for name in (self.run_id, self.sender, self.receiver)]
        return _PURPOSE + b"".join(len(name).to_bytes(4, "big") + name for name in names)


@dataclass(frozen=True, kw_only=True)
class Wrapped:
    """A key that one receiver alone can unwrap."""

    public_key: bytes
    """Ephemeral, 32 bytes."""
    nonce: bytes
    """12 bytes."""
    ciphertext: bytes
    """48 bytes: the key and its tag."""


class KeyPair:
    """A receiver's private key, which never leaves this object, and the public one, which travels."""

    __slots__ = ("_private",)

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()

    @property
    def public_key(self) -> bytes:
        """32 bytes."""
        return self._private.public_key().public_bytes_raw()

    def unwrap(self, wrapped: Wrapped, way: Way) -> Key:
        """The key that was wrapped for this pair.

        Raises:
            MalformedError: parts of another length, a public key that is no point to agree with, or a key that was
                wrapped for someone else, for another way, or altered.
        """
        _check_length("wrapped.nonce", wrapped.nonce, NONCE_BYTES)
        _check_length("wrapped.ciphertext", wrapped.ciphertext, WRAPPED_BYTES)
        shared = _agree(self._private, wrapped.public_key, "wrapped.public_key")
        cipher = _cipher(shared, wrapped.public_key, self.public_key, way)
        try:
            return Key(cipher.decrypt(wrapped.nonce, wrapped.ciphertext, way.bound()))
        except InvalidTag:
            raise MalformedError(
                f"wrapped: the key from {way.sender} to {way.receiver} in run {way.run_id} does not open; it was "
                "wrapped for another public key, sender, receiver or run, or altered on its way"
            ) from None

    def __repr__(self) -> str:
        return "KeyPair(private)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key is not copied or pickled; it lives and dies with its process")


def wrap(key: Key, public_key: bytes, way: Way) -> Wrapped:
    """`key`, wrapped for who holds the private part of `public_key`.

    Raises MalformedError for a public key that is not 32 bytes or no point to agree with.
    """
    ephemeral = X25519PrivateKey.generate()
    shared = _agree(ephemeral, public_key, f"public_key of {way.receiver}")
    own = ephemeral.public_key().public_bytes_raw()
    nonce = os.urandom(NONCE_BYTES)
    ciphertext = _cipher(shared, own, public_key, way).encrypt(nonce, key.secret, way.bound())
    return Wrapped(public_key=own, nonce=nonce, ciphertext=ciphertext)


def check_public_key(field: str, public_key: bytes) -> None:
    """Raise MalformedError naming `field` unless `public_key` has the length of one."""
    _check_length(field, public_key, PUBLIC_KEY_BYTES)


def _agree(private: X25519PrivateKey, public_key: bytes, field: str) -> bytes:
    check_public_key(field, public_key)
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public_key))
    except ValueError:  # a point of small order would make the same secret with every private key
        raise MalformedError(f"{field}: no X25519 public key; make a new pair") from None


def _cipher(shared: bytes, ephemeral: bytes, receiver: bytes, way: Way) -> AESGCM:
    """AES-256-GCM under a key that follows from what both agreed on and from both public keys."""
    info = way.bound() + ephemeral + receiver
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(shared))


def _check_length(field: str, value: bytes, wanted: int) -> None:
    if len(value) != wanted:
        raise MalformedError(f"{field}: {len(value)} bytes; it must be {wanted}")
