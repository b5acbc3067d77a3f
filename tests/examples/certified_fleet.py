"""A fleet under TLS, and the certificates of those who call it."""

from contextlib import contextmanager

from certificates import Authority
from fleet_harness import system

from services.rpc.dial import Dialer
from services.rpc.identity import Identity
from services.rpc.keypair import TlsFiles
from services.rpc.tls import Own


class Certified:
    """An authority that signs for whom it is asked."""

    def __init__(self, folder):
        self.authority = Authority(folder)

    def settings(self, role, name):
        """The settings of TLS of a role."""
        issued = self.authority.issued(Identity(role, name))
        return {"tls_ca": issued.ca, "tls_cert": issued.certificate, "tls_key": issued.key}

    def flags(self, role, name):
        """The same as flags."""
        return [f"--{flag.replace('_', '-')}={path}" for flag, path in self.settings(role, name).items()]

    def environment(self, role, name):
        """The same as environment variables."""
        return {f"ELSA_{flag.upper()}": str(path) for flag, path in self.settings(role, name).items()}

    def dialer(self, role, name):
        """How one of that identity calls others."""
        given = self.settings(role, name)
        files = TlsFiles(ca=given["tls_ca"], certificate=given["tls_cert"], key=given["tls_key"])
        return Dialer(own=Own(files, role, name))


@contextmanager
def certified_system(folder):
    """A cloud that speaks TLS alone, and who certifies its callers."""
    certified = Certified(folder / "authority")
    with system(folder, certified.dialer("admin", "tests"), **certified.settings("cloud", "cloud")) as at:
        yield at, certified
