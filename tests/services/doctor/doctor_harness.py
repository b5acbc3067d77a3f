"""What tests of the doctor share."""

from services.rpc.keypair import TlsFiles


def tls_of(issued, crl=None):
    """The files of a certificate of tests."""
    return TlsFiles(ca=issued.ca, certificate=issued.certificate, key=issued.key, crl=crl)


def of(findings, kind, verdict="bad"):
    """The one finding of a kind with that verdict."""
    (found,) = [each for each in findings if each.kind == kind and each.verdict == verdict]
    return found
