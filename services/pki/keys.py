"""Private keys: EC P-256, in PEM, readable by their owner alone, encrypted if there is a passphrase."""

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from elsa.errors import InputError
from services.pki.files import read

LEAST_PASSPHRASE = 12
"""Characters of a new one: who copies the key's file can try all short ones on a machine of their own."""
MOST_PASSPHRASE_BYTES = 1023
"""What OpenSSL takes."""
WHAT = "a private key in PEM, as elsa pki request writes"
EVERYBODY = "everybody"
Passphrase = Callable[[], bytes]


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    """The key as PKCS 8. Raises InputError for a passphrase that is too short or too long."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        _check_passphrase(passphrase)
        encryption = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def _check_passphrase(passphrase: bytes) -> None:
    """Raise InputError for one that no new key should have. Keys of before are read with any."""
    if len(os.fsdecode(passphrase)) < LEAST_PASSPHRASE:
        raise InputError(
            f"a passphrase of fewer than {LEAST_PASSPHRASE} characters is found by trying, once somebody has a copy "
            "of the key; give a longer one, such as four words"
        )
    if len(passphrase) > MOST_PASSPHRASE_BYTES:
        raise InputError(f"a passphrase of {len(passphrase)} bytes; give {MOST_PASSPHRASE_BYTES} at most")


def key_from_pem(pem: bytes, where: str, passphrase: Passphrase | None = None) -> ec.EllipticCurvePrivateKey:
    """The key in `pem`; `passphrase` is asked only for an encrypted one. Raises InputError."""
    if encrypted(pem, where):
        if passphrase is None:
            raise InputError(f"{where}: is encrypted; give it decrypted")
        try:
            key = serialization.load_pem_private_key(pem, passphrase())
        except ValueError as error:
            raise InputError(f"{where}: the passphrase is wrong; try again with the right one") from error
    else:
        key = serialization.load_pem_private_key(pem, None)
    if not is_p256(key.public_key()) or not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError(f"{where}: no key of EC P-256; have elsa pki make one")
    return key


def encrypted(pem: bytes, where: str) -> bool:
    """Whether the key in `pem` is encrypted. Raises InputError if there is none."""
    try:
        serialization.load_pem_private_key(pem, None)
    except TypeError:
        return True
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError(f"{where}: no private key; give {WHAT}") from error
    return False


def read_key(path: Path, passphrase: Passphrase | None = None) -> ec.EllipticCurvePrivateKey:
    """The key in a file that is not open to everybody. Raises InputError."""
    pem = read(path, WHAT)
    if users_of(path) == EVERYBODY:
        raise InputError(f"{path}: everybody on this machine may read or write this key; chmod 600 {path}")
    return key_from_pem(pem, str(path), passphrase)


def users_of(path: Path) -> str:
    """Who may read or write a file besides root, in words."""
    mode = path.stat().st_mode
    if mode & stat.S_IRWXO:
        return EVERYBODY
    return "its owner and its group" if mode & stat.S_IRWXG else "its owner alone"


def is_p256(key: PublicKeyTypes) -> bool:
    """Whether a public key is of the one kind that the fleet uses."""
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)


def sha256_of(key: PublicKeyTypes) -> str:
    """By what people compare public keys: SHA-256 of the subject public key info, in hex."""
    info = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(info).hexdigest()
