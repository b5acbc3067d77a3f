"""`elsa doctor`: what it reads, what it prints, and how it ends."""

import json
import re
import socket
from pathlib import Path

import pytest
from certificates import Authority
from fleet_harness import system

from services.cli.__main__ import status
from services.doctor.examination import Subject, examine
from services.doctor.finding import EXIT_CODES
from services.doctor.peer import Peer
from services.rpc.dial import Dialer
from services.rpc.identity import Identity
from services.rpc.keypair import TlsFiles
from services.rpc.tls import Own

DOCS = Path(__file__).parents[3] / "docs" / "doctor.md"


@pytest.fixture
def doctor(capsys, monkeypatch, tmp_path):
    """`doctor(*flags)`: status, output and errors."""
    for name in ("ELSA_CLOUD", "ELSA_TLS_CA", "ELSA_TLS_CERT", "ELSA_TLS_KEY", "ELSA_TLS_CRL", "ELSA_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*flags):
        capsys.readouterr()
        code = status(["doctor", *map(str, flags)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def closed():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"127.0.0.1:{port}"


def flags_of(issued):
    return ("--tls-ca", issued.ca, "--tls-cert", issued.certificate, "--tls-key", issued.key)


def test_all_is_well_with_a_good_machine(doctor, cloud, authority):
    code, out, err = doctor("--cloud", cloud, *flags_of(authority.issued(Identity("admin", "ops"))))
    assert (code, err) == (0, "")
    assert " bad" not in out
    assert "takes us for an admin" in out


def test_the_status_is_that_of_the_first_bad_kind(doctor, cloud, authority, stranger, closed):
    ops, ann = authority.issued(Identity("admin", "ops")), authority.issued(Identity("client", "ann"))
    other = stranger.issued(Identity("admin", "ops"))
    for flags, kind in (
        (("--cloud", "no-such-host.invalid:1", *flags_of(ops)), "name"),
        (("--cloud", closed, *flags_of(ops)), "port"),
        (("--cloud", cloud, *flags_of(other)), "TLS"),
        (("--cloud", cloud, *flags_of(ann)), "role"),
        (("--cloud", cloud, *flags_of(ann), "--as", "client", "--name", "bob"), "role"),
    ):
        code, out, _ = doctor(*flags, "--timeout", "5")
        assert code == EXIT_CODES[kind], out
        assert re.search(rf"^bad +{kind} .*; remedy: ", out, re.MULTILINE)
    code, out, _ = doctor(
        "--as",
        "edge",
        "--name",
        "e",
        "--cloud",
        cloud,
        *flags_of(authority.issued(Identity("edge", "e"))),
        "--model",
        "/none",
    )
    assert code == EXIT_CODES["model"], out


def test_all_other_checks_run_after_a_failure(doctor, closed):
    _, out, _ = doctor("--as", "edge", "--cloud", closed)
    kinds = [line.split()[1] for line in out.splitlines()[:-1]]
    assert kinds == ["name", "port", "TLS", "model", "memory", "disk", "disk"]


def test_json_says_the_same(doctor, closed):
    code, out, _ = doctor("--cloud", closed, "--json")
    told = json.loads(out)
    assert code == told["exit_code"] == EXIT_CODES["port"]
    assert [each["kind"] for each in told["findings"] if each["verdict"] == "bad"] == ["port"]
    assert set(told["findings"][0]) == {"kind", "verdict", "what", "remedy", "of"}


def test_settings_are_those_of_the_role(doctor, closed, tmp_path, monkeypatch):
    (tmp_path / "edge.yaml").write_text(f"name: edge-1\ncloud: {closed}\nmax_memory_mib: 7\n")
    _, out, _ = doctor("--as", "edge", "--config", "edge.yaml")
    assert "7.0 MiB may be used" in out
    assert f"port {closed.rpartition(':')[2]} refuses" in out
    monkeypatch.setenv("ELSA_CLOUD", "cloud.invalid:1")
    assert "cloud.invalid does not resolve" in doctor("--as", "client")[1]
    code, _, err = doctor("--as", "edge", "--config", "none.yaml")
    assert code == 1 and "none.yaml" in err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--as", "king"), "--as: 'king' is no role"),
        (("--edge", "e:1", "--edge-name", "a", "--edge-name", "b"), "--edge-name: 2 for 1 of --edge"),
        (("--edge", "e:1", "--edge-name", "a b"), "--edge-name: 'a b' is no name"),
        (("--as", "cloud", "--cloud", "c:1"), "--cloud: a cloud has no such setting"),
    ],
)
def test_a_wrong_flag_ends_with_2(doctor, flags, said):
    code, out, err = doctor(*flags)
    assert (code, out) == (2, "") and said in err


@pytest.mark.parametrize("role", ["admin", "client", "edge", "cloud"])
def test_a_list_of_the_revoked_without_tls_is_refused(doctor, crl, closed, role):
    """Nothing would be held against it."""
    name = () if role in ("admin", "cloud") else ("--name", "one")
    code, out, err = doctor("--as", role, *name, "--tls-crl", crl)
    assert (code, out) == (1, "") and "tls_crl is given without TLS" in err


def test_a_cloud_that_does_not_run_yet_is_warned_of(doctor, closed, tmp_path):
    (tmp_path / "cloud.yaml").write_text(f"port: {closed.rpartition(':')[2]}\n")
    code, out, _ = doctor("--as", "cloud", "--config", "cloud.yaml")
    assert code == 0
    assert re.search(r"^warn +port .*start it: elsa cloud", out, re.MULTILINE)
    assert "a cloud holds no model" not in out


def test_a_cloud_sees_its_own_certificate_served(cloud, authority):
    issued = authority.issued(Identity("cloud", "main"))
    files = TlsFiles(ca=issued.ca, certificate=issued.certificate, key=issued.key)
    findings = list(examine(Subject(role="cloud", cloud=Peer(server="cloud", address=cloud), files=files)))
    assert [each.verdict for each in findings if each.verdict == "bad"] == []
    assert any("shows the certificate of cloud main" in each.what for each in findings)


def test_edges_are_called_at_the_addresses_that_the_cloud_tells(tmp_path, doctor):
    authority = Authority(tmp_path / "authority")

    def settings(role, name):
        issued = authority.issued(Identity(role, name))
        return {"tls_ca": issued.ca, "tls_cert": issued.certificate, "tls_key": issued.key}

    ops, ann = authority.issued(Identity("admin", "ops")), authority.issued(Identity("client", "ann"))
    dialer = Dialer(own=Own(TlsFiles(ca=ops.ca, certificate=ops.certificate, key=ops.key), "admin"))
    with system(tmp_path, dialer=dialer, gone_after_s=60, **settings("cloud", "cloud")) as at:
        one = at.edge("edge-1", **settings("edge", "edge-1"), state=tmp_path / "1")
        code, out, _ = doctor("--cloud", at.address, *flags_of(ops))
        assert code == 0, out
        assert "edge edge-1: takes us for an admin" in out
        assert "edge edge-1" not in doctor("--cloud", at.address, *flags_of(ops), "--no-edges")[1]
        at.edge("edge-2", **settings("edge", "edge-2"), state=tmp_path / "2", advertise=one.node.address)
        code, out, _ = doctor("--cloud", at.address, *flags_of(ops))
        assert code == EXIT_CODES["TLS"]
        assert "edge edge-2: shows the certificate of edge edge-1, and edge edge-2 should be there" in out
        client = (
            "--as",
            "client",
            "--name",
            "ann",
            "--cloud",
            at.address,
            *flags_of(ann),
            "--edge",
            one.node.address,
        )
        code, out, _ = doctor(*client, "--edge-name", "edge-1")
        assert (code, "edge edge-1: takes us for a client" in out) == (0, True), out
        assert doctor(*client, "--edge-name", "edge-2")[0] == EXIT_CODES["TLS"]
        assert doctor(*client)[0] == 0


def test_no_secret_is_told(doctor, cloud, authority, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    monkeypatch.setenv("ELSA_DATABASE_URL", "postgresql://me:hunter2@db/elsa")
    monkeypatch.setenv("https_proxy", "http://me:hunter3@proxy.invalid:1")
    monkeypatch.setenv("no_proxy", "")
    ops = authority.issued(Identity("admin", "ops"))
    body = ops.key.read_text().splitlines()[1]
    for flags in (("--cloud", cloud, *flags_of(ops), "--timeout", "1"), ("--as", "cloud", "--model", "org/none")):
        said = "".join(map(str, doctor(*flags)))
        assert not [secret for secret in ("hunter2", "hunter3", "hf_secret", body) if secret in said]


def test_the_status_of_each_kind_is_in_help_and_in_the_docs(doctor):
    """Read from both as people do."""
    _, out, _ = doctor("--help")
    page = DOCS.read_text()
    for kind, code in EXIT_CODES.items():
        assert re.search(rf"\b{code}\s+{kind}\b", out)
        assert re.search(rf"^\| {code} \| {kind} \|", page, re.MULTILINE)
