"""An authority made for a test, and hands that ask it."""

from datetime import timedelta

import pytest
from cryptography import x509

from services.pki.authority import Authority
from services.pki.certificates import utc_now
from services.pki.requests import new_request


@pytest.fixture
def authority(tmp_path):
    return Authority.create(tmp_path / "authority")


@pytest.fixture
def signed(authority):
    """`signed(identity, *hosts)`: a certificate, with the words of `Authority.sign`."""

    def call(identity, *hosts, **words):
        words.setdefault("expect", identity)
        return x509.load_pem_x509_certificate(authority.sign(new_request(identity, hosts)[1], **words))

    return call


@pytest.fixture
def after():
    """`after(days)`: a clock that many days ahead."""
    return lambda days: lambda: utc_now() + timedelta(days=days)
