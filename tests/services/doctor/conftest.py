"""An authority, a real cloud under TLS, and the doctor run on a machine of this fleet."""

import sys
from datetime import timedelta
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "rpc"))  # certificates.py, rpc_servers.py

from certificates import Authority
from doctor_harness import tls_of
from fleet_harness import cloud_serving

from services.doctor.examination import examine
from services.doctor.peer import Peer
from services.doctor.subject import Instruments, Subject
from services.rpc.identity import Identity

LONG_AGO = timedelta(hours=1)
"""So that certificates hold still by a clock that is some minutes behind."""


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def stranger(tmp_path_factory):
    """Another authority of the same name."""
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def crl(authority, tmp_path_factory):
    """The file of the list of the revoked that the cloud reads; `write` it anew."""
    path = tmp_path_factory.mktemp("revoked") / "crl.pem"
    path.write_bytes(authority.crl([]))
    return path


@pytest.fixture(scope="module")
def cloud(authority, crl, tmp_path_factory):
    """The address of a real cloud under TLS."""
    own = authority.issued(Identity("cloud", "main"), begun=LONG_AGO)
    settings = {"tls_ca": own.ca, "tls_cert": own.certificate, "tls_key": own.key, "tls_crl": crl}
    with cloud_serving(tmp_path_factory.mktemp("cloud"), gone_after_s=60, **settings) as address:
        yield address


@pytest.fixture
def of_cloud(cloud, authority):
    """`of_cloud(role="admin", **other)`: what is found of the cloud by a machine with a good certificate."""

    def look(role="admin", name="ops", *, by=None, files=None, address=cloud, **given):
        files = tls_of(authority.issued(Identity(role, name), begun=LONG_AGO)) if files is None else files
        subject = Subject(role=role, name=name, cloud=Peer(server="cloud", address=address), files=files, **given)
        return list(examine(subject, by or Instruments()))

    return look


@pytest.fixture
def verdicts():
    """`verdicts(findings)`: kind and verdict of those that are neither good nor skipped."""
    return lambda findings: [(str(each.kind), each.verdict) for each in findings if each.verdict in ("warn", "bad")]
