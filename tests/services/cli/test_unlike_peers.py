"""A command and a cloud that do not come to terms: said soon, on one line, with the cause and where to look."""

import http.server
import sys
import threading
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from services.rpc.identity import Identity
from services.rpc.keypair import TlsFiles
from services.rpc.tls import Own, server_credentials

sys.path.append(str(Path(__file__).parents[1] / "rpc"))
from certificates import Authority

FLAGS = ("--tls-ca", "--tls-cert", "--tls-key")


@pytest.fixture(scope="module")
def authorities(tmp_path_factory):
    """The fleet's, and a stranger's."""
    return [Authority(tmp_path_factory.mktemp(name)) for name in ("ours", "theirs")]


@pytest.fixture
def served(authorities):
    """Addresses of what may be at a port, by name."""
    own = authorities[0].issued(Identity("cloud", "cloud"))
    files = TlsFiles(ca=own.ca, certificate=own.certificate, key=own.key)
    server = grpc.server(futures.ThreadPoolExecutor(1))
    ports = {
        "TLS": server.add_secure_port("127.0.0.1:0", server_credentials(Own(files, "cloud", "cloud"))),
        "no TLS": server.add_insecure_port("127.0.0.1:0"),
    }
    server.start()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent) as web:
        threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield {"HTTP": web.server_address[1], **ports}
        web.shutdown()
    server.stop(None).wait()


class Silent(http.server.BaseHTTPRequestHandler):
    """Answers, and notes nothing."""

    def log_message(self, *_given):
        pass


@pytest.mark.parametrize(
    ("there", "whose", "said"),
    [
        ("HTTP", None, "speaks something else than gRPC, such as plain HTTP"),
        ("HTTP", 0, "does not speak TLS at this port"),
        ("no TLS", 0, "does not speak TLS at this port"),
        ("TLS", None, "ends every connection at once; check that both sides use TLS or neither"),
        ("TLS", 1, "shows a certificate that is not accepted here"),
    ],
)
def test_what_cannot_pass_is_said_once_with_the_cause_and_the_doctor(elsa, served, authorities, there, whose, said):
    flags = []
    if whose is not None:
        issued = authorities[whose].issued(Identity("admin", "ops"))
        files = (issued.ca, issued.certificate, issued.key)
        flags = [part for pair in zip(FLAGS, files, strict=True) for part in pair]
    address = f"127.0.0.1:{served[there]}"
    code, out, err = elsa("run", "list", "--cloud", address, "--patience", 600, *flags)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"error: cloud {address} {said}")
    assert err.endswith(f"; elsa doctor --cloud {address} looks for the cause\n")
