"""Each pod finds, under the names in its environment, the certificate that its role accepts, and no wider."""

import re
import socket
import ssl
import threading
from pathlib import Path

import grpc
import pytest
from issuing import DRIVER, NOW, PURPOSES, Asked, Authority, asked_by_object, files_of, lay_out
from rendered import SETS, Pod, most_edges, notes_of, objects_in, objects_of, of_kind, pods, render

from elsa.errors import InputError
from services.pki.issuing import USES
from services.rpc.channel import connect
from services.rpc.identity import CLOUD_HOST, Identity
from services.rpc.keypair import TlsFiles, read_keypair

MADE_HERE = [
    name for name, values in SETS.items() if values.get("certificates", {}).get("from") in ("cert-manager", "csi")
]
ISSUER_FIELDS = {"name", "kind", "group"}
CERTIFICATE_FIELDS = {
    *("secretName", "issuerRef", "commonName", "uris", "dnsNames", "usages", "privateKey", "duration", "renewBefore"),
    "isCA",
}
REQUIRED = {"secretName", "issuerRef", "usages", "privateKey", "duration", "renewBefore", "commonName"}


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.mark.parametrize("name", MADE_HERE)
def test_every_pod_has_the_certificate_that_its_role_accepts(name: str, authority: Authority, tmp_path: Path) -> None:
    for pod in pods(objects_of(name), most=most_edges(name)):
        accept(pod, lay_out(files_of(pod, objects_of(name), authority), tmp_path / pod.name))


def accept(pod: Pod, folder: Path) -> None:
    """Read the files as the pod's role does at its start. Raises InputError as it would."""

    def place(variable: str) -> Path:
        return folder / Path(pod.environment[variable]).relative_to("/etc/elsa/tls")

    files = TlsFiles(ca=place("ELSA_TLS_CA"), certificate=place("ELSA_TLS_CERT"), key=place("ELSA_TLS_KEY"))
    read_keypair(files, pod.role, pod.environment.get("ELSA_NAME"), NOW)


def test_an_edge_does_not_accept_the_certificate_of_another(authority: Authority, tmp_path: Path) -> None:
    first, second, *_ = [pod for pod in pods(objects_of("csi")) if pod.role == "edge"]
    with pytest.raises(InputError, match="elsa-edge-0"):
        accept(second, lay_out(files_of(first, objects_of("csi"), authority), tmp_path))


def test_with_the_driver_a_pod_sees_its_own_key_alone(authority: Authority) -> None:
    for pod in pods(objects_of("csi")):
        if pod.role != "admin":
            assert set(files_of(pod, objects_of("csi"), authority)) == {"ca.crt", "tls.crt", "tls.key"}


def test_the_driver_is_asked_in_words_that_it_knows() -> None:
    known = {
        *("issuer-name", "issuer-kind", "issuer-group", "dns-names", "uri-sans", "duration", "renew-before"),
        *("key-usages", "key-encoding", "fs-group"),
    }
    for pod in pods(objects_of("csi")):
        if pod.role != "admin":
            attributes = pod.volume("tls")["csi"]["volumeAttributes"]
            assert {key.removeprefix(f"{DRIVER}/") for key in attributes} <= known
            assert attributes[f"{DRIVER}/issuer-name"] == "fleet"
            assert attributes[f"{DRIVER}/issuer-kind"] == "ClusterIssuer"


def test_clients_and_the_cloud_see_their_own_key_alone() -> None:
    for name in SETS:
        for pod in pods(objects_of(name)):
            if pod.component in ("cloud", "client"):
                assert "projected" not in pod.volume("tls")


@pytest.mark.parametrize("name", SETS)
def test_keys_may_be_read_by_owner_and_group_alone(name: str) -> None:
    for pod in pods(objects_of(name)):
        tls = pod.volume("tls")
        for kind in ("secret", "projected"):
            if kind in tls:
                assert tls[kind]["defaultMode"] == 0o440
        if "csi" in tls:
            assert tls["csi"]["readOnly"] is True
            assert tls["csi"]["volumeAttributes"]["csi.cert-manager.io/fs-group"] == str(
                pod.spec["securityContext"]["fsGroup"]
            )


@pytest.mark.parametrize("name", MADE_HERE)
def test_certificates_have_the_shape_of_cert_managers(name: str) -> None:
    given = objects_of(name)
    own = {each["metadata"]["name"]: each["spec"] for each in of_kind(given, "Issuer")}
    for each in of_kind(given, "Certificate"):
        spec = each["spec"]
        assert REQUIRED <= set(spec) <= CERTIFICATE_FIELDS
        assert set(spec["issuerRef"]) == ISSUER_FIELDS
        assert spec["privateKey"]["algorithm"] == "ECDSA"
        assert hours(spec["renewBefore"]) < hours(spec["duration"])
        assert len(spec["commonName"]) <= 64
        if "issuer" not in SETS[name]["certificates"]:
            assert spec["issuerRef"]["name"] in own
    for spec in own.values():
        assert spec in ({"selfSigned": {}}, {"ca": {"secretName": "elsa-authority"}})


def hours(text: str) -> int:
    found = re.fullmatch(r"(\d+)h", text)
    assert found, text
    return int(found[1])


@pytest.mark.parametrize("name", MADE_HERE)
def test_certificates_say_what_the_authority_of_elsa_pki_would(name: str) -> None:
    words = {purpose: word for word, purpose in PURPOSES.items()}
    for each in of_kind(objects_of(name), "Certificate"):
        if each["spec"].get("isCA"):
            continue
        asked = asked_by_object(each)
        (uri,) = asked.uris
        identity = Identity.from_uri(uri)
        assert list(asked.hosts) == ([identity.host] if identity.role in ("cloud", "edge") else [])
        expected = {words[use] for use in USES[identity.role]}
        assert set(asked.usages) - {"digital signature"} == expected


@pytest.mark.parametrize("source", ["cert-manager", "csi"])
def test_a_site_without_a_cloud_has_no_key_of_an_admin(source: str) -> None:
    issued = {"certificates": {"from": source, "issuer": {"name": "fleet"}}}
    for values, admins in ((issued, 1), (SETS["site"] | issued, 0)):
        made = of_kind(objects_in(render(values)), "Certificate")
        assert [each["spec"]["uris"] for each in made].count(["elsa:admin/operator"]) == admins


def test_notes_name_the_secrets_and_identities_that_one_must_make() -> None:
    for name, values in SETS.items():
        if values.get("certificates", {}).get("from", "secrets") != "secrets":
            continue
        told = dict(re.findall(r"^  (\S+-tls)\t(\S+)$", notes_of(name), re.MULTILINE))
        for pod in pods(objects_of(name), most=most_edges(name)):
            if pod.component == "node-client":
                continue
            tls = pod.volume("tls")
            own = tls["secret"]["secretName"] if "secret" in tls else f"{pod.name}-tls"
            said = Identity.from_uri(told[own])
            assert (said.role, pod.environment.get("ELSA_NAME", said.name)) == (pod.role, said.name)


def test_a_missing_secret_of_an_edge_that_is_not_there_holds_up_none() -> None:
    (edge, *_) = [pod for pod in pods(objects_of("default")) if pod.role == "edge"]
    assert all(source["secret"]["optional"] for source in edge.volume("tls")["projected"]["sources"])


def test_the_list_of_the_revoked_is_read_by_servers_alone() -> None:
    for pod in pods(objects_of("own-certificates")):
        file = pod.environment.get("ELSA_TLS_CRL")
        assert (file is not None) is (pod.role in ("cloud", "edge"))
        if file is not None:
            (mount,) = [each for each in pod.container["volumeMounts"] if each["name"] == "revoked"]
            assert Path(file).parent == Path(mount["mountPath"])
            assert pod.volume("revoked")["configMap"] == {"name": "elsa-revoked"}


def test_callers_ask_for_the_host_by_which_an_ingress_tells_servers(authority: Authority, tmp_path: Path) -> None:
    (ingress,) = of_kind(objects_of("outside-ingress"), "Ingress")
    edges = [pod for pod in pods(objects_of("outside-ingress"), most=4) if pod.role == "edge"]
    wanted = [CLOUD_HOST, *(Identity("edge", pod.environment["ELSA_NAME"]).host for pod in edges)]
    assert [rule["host"] for rule in ingress["spec"]["rules"]] == wanted
    files = authority.sign(Asked(uris=[], hosts=wanted, usages=["server auth"]))
    for path, content in files.items():
        (tmp_path / path).write_bytes(content)
    for host in wanted:
        assert asked_for(host, tmp_path) == host


def asked_for(host: str, files: Path) -> str | None:
    """The name that one of our callers asks for in its first message of TLS, when it calls `host` at an address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files / "tls.crt", files / "tls.key")
    asked: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                context.set_alpn_protocols(["h2"])
                with context.wrap_socket(connection, server_side=True):
                    pass

        server = threading.Thread(target=answer)
        server.start()
        with connect(address, grpc.ssl_channel_credentials((files / "ca.crt").read_bytes()), host) as channel:
            ready = grpc.channel_ready_future(channel)
            server.join(20)
            ready.cancel()
    return asked[0]
