"""`elsa doctor`: what it reads, what it prints, and how it ends."""

import json
import re
import socket
from pathlib import Path

import pytest
from certificates import Authority
from fleet_harness import system
from rpc_servers import services_of, serving

from elsa.v1 import split_pb2_grpc
from services.cli.__main__ import status
from services.doctor.examination import examine
from services.doctor.finding import EXIT_CODES
from services.doctor.listening import Listener
from services.doctor.subject import Subject
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


def at(address, role, name=""):
    host, _, port = address.rpartition(":")
    return Listener(role=role, host=host, port=int(port), name=name)


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
    assert kinds == ["name", "port", "TLS", "port", "model", "memory", "disk", "disk"]


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
        (("--as", "cloud", "--cloud", "c:1"), "--cloud: is for an admin, an edge or a client, and this is to be a"),
        (("--as", "cloud", "--name", "main"), "--name: is for an admin, an edge or a client"),
        (("--as", "cloud", "--model", "minilm"), "--model: is for an admin, an edge or a client"),
        (("--as", "client", "--port", "1"), "--port: is for an edge or a cloud, and this is to be a client"),
        (
            ("--as", "edge", "--database-url", "sqlite://"),
            "--database-url: is for a cloud, and this is to be an edge",
        ),
        (("--as", "edge", "--edge", "e:1"), "--edge: is for an admin or a client"),
        (("--as", "client", "--no-edges"), "--no-edges: is for an admin"),
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
    port = closed.rpartition(":")[2]
    (tmp_path / "cloud.yaml").write_text(f"port: {port}\n")
    for given in (("--config", "cloud.yaml"), ("--port", port)):
        code, out, _ = doctor("--as", "cloud", *given)
        assert code == 0
        assert re.search(r"^warn +port .* is free: .*start it: elsa cloud", out, re.MULTILINE)
        assert "a cloud holds no model" in out


def test_a_cloud_is_looked_at_by_its_flags(doctor, closed, tmp_path):
    port = closed.rpartition(":")[2]
    (tmp_path / "file").touch()
    code, out, _ = doctor("--as", "cloud", "--host", "0.0.0.0", "--port", port)
    assert code == EXIT_CODES["TLS"] and "elsa cloud refuses to listen there" in out
    assert doctor("--as", "cloud", "--host", "0.0.0.0", "--port", port, "--insecure")[0] == 0
    assert doctor("--as", "cloud", "--port", port, "--state", "file")[0] == EXIT_CODES["disk"]
    code, out, _ = doctor("--as", "cloud", "--port", port, "--host", "192.0.2.1", "--insecure")
    assert code == EXIT_CODES["port"] and "cannot listen on 192.0.2.1" in out
    code, out, _ = doctor("--as", "cloud", "--port", port, "--database-url", "mysql://db/elsa")
    assert code == EXIT_CODES["store"] and "neither sqlite nor postgresql" in out


def test_another_program_at_the_clouds_port_is_bad(doctor):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code, out, _ = doctor("--as", "cloud", "--port", port, "--timeout", "0.5")
    assert code == EXIT_CODES["port"] and "speaks no HTTP/2" in out
    assert "choose another --port" in out and "--cloud" not in out


def test_another_role_at_the_clouds_port_is_told(doctor):
    """It is one of ELSA's, and knows no FleetService."""
    with serving("sync", services_of(split=split_pb2_grpc.SplitServiceServicer())) as address:
        code, out, _ = doctor("--as", "cloud", "--port", address.rpartition(":")[2])
    assert code == EXIT_CODES["port"] and "answers as no cloud of ELSA does (NOT_FOUND" in out


def test_a_cloud_sees_its_own_certificate_served(cloud, authority):
    issued = authority.issued(Identity("cloud", "main"))
    files = TlsFiles(ca=issued.ca, certificate=issued.certificate, key=issued.key)
    findings = list(examine(Subject(role="cloud", listener=at(cloud, "cloud"), files=files)))
    assert [each.verdict for each in findings if each.verdict == "bad"] == []
    assert any("shows the certificate of cloud main" in each.what for each in findings)


def test_an_edge_sees_itself_served(tmp_path, authority):
    issued = authority.issued(Identity("edge", "edge-1"))
    own = {"tls_ca": issued.ca, "tls_cert": issued.certificate, "tls_key": issued.key}
    files = TlsFiles(ca=issued.ca, certificate=issued.certificate, key=issued.key)
    main = authority.issued(Identity("cloud", "main"))
    given = {"tls_ca": main.ca, "tls_cert": main.certificate, "tls_key": main.key}
    with system(tmp_path, **given, gone_after_s=60) as fleet:
        one = fleet.edge("edge-1", **own, state=tmp_path / "1")
        for name, bad in (("edge-1", []), ("edge-2", ["TLS"])):
            listener = at(one.node.address, "edge", name)
            findings = [*examine(Subject(role="edge", listener=listener, files=files))]
            assert [each.kind for each in findings if each.verdict == "bad"] == bad
            assert any(each.of == f"edge {name}" and each.kind == "version" for each in findings) == (not bad)


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
    for flags in (("--cloud", cloud, *flags_of(ops), "--timeout", "1"), ("--as", "cloud", "--port", "1")):
        said = "".join(map(str, doctor(*flags)))
        assert not [secret for secret in ("hunter2", "hunter3", "hf_secret", body) if secret in said]


def test_the_status_of_each_kind_is_in_help_and_in_the_docs(doctor):
    """Read from both as people do."""
    _, out, _ = doctor("--help")
    page = DOCS.read_text()
    for kind, code in EXIT_CODES.items():
        assert re.search(rf"\b{code}\s+{kind}\b", out)
        assert re.search(rf"^\| {code} \| {kind} \|", page, re.MULTILINE)
