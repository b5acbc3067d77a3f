"""The containers' check of health asks the role beside it, whatever proxy the environment names."""

import pytest

from services.rpc.healthy import main
from services.rpc.probes import Probes, Readiness


@pytest.mark.parametrize("proxy", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_the_check_of_containers_goes_by_no_proxy(monkeypatch, capsys, proxy):
    readiness = Readiness()
    readiness.begin()
    listener = Probes("127.0.0.1", 0, readiness)
    monkeypatch.setenv(proxy, "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("ELSA_PROBE_PORT", listener.address.rpartition(":")[2])
    try:
        assert (main(), capsys.readouterr().err) == (0, "")
    finally:
        listener.close()
