"""What a failed handshake most likely means: gRPC says UNAVAILABLE, and its own or OpenSSL's words in the details."""

_NOT_TAKEN = "a certificate that is not accepted here"
_FAULTS: tuple[tuple[str, str], ...] = (
    (
        "Hostname Verification Check failed",
        "shows the certificate of somebody else; check that this is its address, and its --tls-cert",
    ),
    (
        "WRONG_VERSION_NUMBER",
        "does not speak TLS at this port; check the port, and start it with --tls-ca, --tls-cert and --tls-key",
    ),
    ("certificate has expired", f"shows {_NOT_TAKEN}: it has expired; have it renewed, and check the clocks"),
    ("certificate is not yet valid", f"shows {_NOT_TAKEN}: it is not valid yet; check the clocks"),
    ("unsupported certificate purpose", f"shows {_NOT_TAKEN}: it is of one who may not serve; check its --tls-cert"),
    (
        "Expected SETTINGS frame",
        "speaks something else than gRPC, such as plain HTTP; check that this is its address and port",
    ),
    ("Tls handshake failed", f"shows {_NOT_TAKEN}; check that it was signed by the authority in --tls-ca"),
    ("Ssl handshake failed", f"shows {_NOT_TAKEN}; check that it was signed by the authority in --tls-ca"),
)
"""Words of gRPC and OpenSSL, and what they say of a peer. Of those that occur the first counts."""
_CLOSED = ("failed to connect to all addresses", "Socket closed")
"""A server's refusal of a caller's certificate comes as this, as does that of a caller without TLS."""


def handshake_fault(details: str) -> str | None:
    """What the details of an UNAVAILABLE call say of the peer, and what to check; None if of TLS nothing."""
    for words, meaning in _FAULTS:
        if words in details:
            return meaning
    if all(words in details for words in _CLOSED):
        return (
            "ends every connection at once; check that both sides use TLS or neither, and that it accepts this "
            "side's certificate (not expired, signed by its own --tls-ca)"
        )
    return None
