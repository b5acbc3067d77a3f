"""The authority of a testbed of containers: a folder for each node, kept as long as it holds."""

from datetime import timedelta
from pathlib import Path

import pytest

from services.pki.authority import Authority
from services.pki.certificates import read_certificate, utc_now
from services.pki.keys import read_key
from services.pki.requests import request_with
from services.pki.revocations import read_list
from services.rpc.certificates import identity_of
from services.rpc.identity import Identity
from services.rpc.keypair import TlsFiles, read_keypair
from services.testbed.authority import keep, main

CLOUD, CLIENT = Identity("cloud", "cloud"), Identity("client", "client-1")
NODES = {Path("cloud"): CLOUD, Path("replicas/client-1"): CLIENT}


def files_of(folder, own):
    return {path.relative_to(folder): path.read_bytes() for path in (folder / own).rglob("*") if path.is_file()}


def test_each_node_gets_a_keypair_that_its_role_takes(tmp_path):
    assert keep(tmp_path, NODES) == [CLOUD, CLIENT]
    for own, node in NODES.items():
        folder = tmp_path / own
        files = TlsFiles(ca=folder / "ca.pem", certificate=folder / "tls.pem", key=folder / "tls.key")
        assert read_keypair(files, node.role, node.name, utc_now()).identity == node
        assert (folder / "tls.key").stat().st_mode & 0o777 == 0o600


def test_only_servers_get_the_list_of_the_revoked(tmp_path):
    keep(tmp_path, NODES)
    assert (
        read_list(tmp_path / "cloud" / "crl.pem").issuer == Authority.open(tmp_path / "authority").certificate.subject
    )
    assert not (tmp_path / "replicas" / "client-1" / "crl.pem").exists()


def test_nobody_else_is_handed_the_key_of_the_authority(tmp_path):
    keep(tmp_path, NODES)
    secret = (tmp_path / "authority" / "ca.key").read_bytes()
    assert all(secret not in files_of(tmp_path, own).values() for own in NODES)


def test_done_again_it_keeps_keys_and_certificates(tmp_path):
    keep(tmp_path, NODES)
    before = files_of(tmp_path, "replicas")
    assert keep(tmp_path, NODES) == []
    assert files_of(tmp_path, "replicas") == before


def test_a_node_that_is_new_gets_a_folder_and_the_others_stay(tmp_path):
    keep(tmp_path, NODES)
    before = files_of(tmp_path, "cloud")[Path("cloud/tls.pem")]
    edge = Identity("edge", "edge-1")
    assert keep(tmp_path, {**NODES, Path("edge-1"): edge}) == [edge]
    assert (tmp_path / "cloud" / "tls.pem").read_bytes() == before


def test_what_ends_within_a_month_is_renewed_with_the_same_key(tmp_path):
    keep(tmp_path, NODES)
    key = (tmp_path / "cloud" / "tls.key").read_bytes()
    assert keep(tmp_path, NODES, clock=lambda: utc_now() + timedelta(days=340)) == [CLOUD, CLIENT]
    assert (tmp_path / "cloud" / "tls.key").read_bytes() == key
    assert read_certificate(tmp_path / "cloud" / "tls.pem").not_valid_after_utc > utc_now() + timedelta(days=600)


def test_a_certificate_of_somebody_else_in_a_nodes_folder_is_replaced(tmp_path):
    keep(tmp_path, NODES)
    other = (tmp_path / "replicas" / "client-1" / "tls.pem").read_bytes()
    (tmp_path / "cloud" / "tls.pem").write_bytes(other)
    assert keep(tmp_path, NODES) == [CLOUD]
    assert identity_of(read_certificate(tmp_path / "cloud" / "tls.pem")) == CLOUD


def test_a_certificate_of_another_name_is_replaced_though_it_is_of_the_nodes_own_key(tmp_path):
    keep(tmp_path, NODES)
    place, authority = tmp_path / "cloud", Authority.open(tmp_path / "authority")
    other = Identity("cloud", "other")
    request = request_with(read_key(place / "tls.key"), other)
    (place / "tls.pem").write_bytes(authority.sign(request, expect=other))
    assert keep(tmp_path, NODES) == [CLOUD]
    assert identity_of(read_certificate(place / "tls.pem")) == CLOUD


def test_a_node_whose_key_is_lost_gets_another_with_a_certificate_of_it(tmp_path):
    keep(tmp_path, NODES)
    place = tmp_path / "cloud"
    (place / "tls.key").unlink()
    assert keep(tmp_path, NODES) == [CLOUD]
    assert read_certificate(place / "tls.pem").public_key() == read_key(place / "tls.key").public_key()


def test_an_edge_is_told_of_the_revoked_as_the_cloud_is(tmp_path):
    keep(tmp_path, {**NODES, Path("edge-1"): Identity("edge", "edge-1")})
    assert (tmp_path / "edge-1" / "crl.pem").read_bytes() == (tmp_path / "cloud" / "crl.pem").read_bytes()


def test_the_revoked_stay_revoked_and_servers_are_told(tmp_path):
    keep(tmp_path, NODES)
    certificate = read_certificate(tmp_path / "replicas" / "client-1" / "tls.pem")
    Authority.open(tmp_path / "authority").revoke(certificate)
    assert keep(tmp_path, NODES) == []
    told = read_list(tmp_path / "cloud" / "crl.pem")
    assert told.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None


def test_the_command_makes_a_pool_for_replicas(tmp_path):
    assert main([str(tmp_path), "cloud/cloud", "--replicas", "2"]) == 0
    assert sorted(path.name for path in (tmp_path / "replicas").iterdir()) == ["client-1", "client-2"]


@pytest.mark.parametrize("node", ["cloud", "ghost/cloud", "edge/", "edge/a/b"])
def test_what_is_no_identity_is_refused_in_a_line(tmp_path, capsys, node):
    assert main([str(tmp_path / "made"), node]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "made").exists()
