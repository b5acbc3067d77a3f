"""What every role tells a monitor of itself: its readiness, and until when its certificate is good."""

import pytest
from certificates import Authority
from cryptography import x509

from services.rpc.identity import Identity
from services.rpc.keypair import TlsFiles
from services.rpc.metrics import registry_of
from services.rpc.probes import Readiness
from services.rpc.tls import Own

EDGE = Identity("edge", "edge-1")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


def figure(registry, name):
    return registry.get_sample_value(name)


def test_a_role_tells_when_its_own_certificate_ends_and_of_a_renewed_one_when_that_does(authority):
    issued, renewed = authority.issued(EDGE, days=3), authority.issued(EDGE, days=30)
    own = Own(TlsFiles(ca=issued.ca, certificate=issued.certificate, key=issued.key), "edge")
    registry = registry_of("edge", Readiness(), own, ())
    for files in (issued, renewed):
        issued.key.write_bytes(files.key_pem)
        issued.certificate.write_bytes(files.certificate_pem)
        assert figure(registry, "elsa_certificate_not_after_seconds") == ends_of(files)


def ends_of(files):
    return x509.load_pem_x509_certificate(files.certificate_pem).not_valid_after_utc.timestamp()


def test_a_role_without_tls_tells_of_no_certificate():
    registry = registry_of("edge", Readiness(), None, ())
    assert figure(registry, "elsa_certificate_not_after_seconds") is None


def test_a_role_tells_that_it_is_ready_from_its_beginning_to_its_end():
    readiness = Readiness()
    registry = registry_of("client", readiness, None, ())
    told = [figure(registry, "elsa_ready")]
    for change in (readiness.begin, readiness.end):
        change()
        told.append(figure(registry, "elsa_ready"))
    assert told == [0, 1, 0]
