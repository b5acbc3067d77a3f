"""What a check says: of which kind it is, how it stands, what to do. The kind of the first bad one is the status."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Verdict = Literal["good", "warn", "bad", "skipped"]


class Kind(StrEnum):
    """What is looked at, in the order in which one thing needs another."""

    NAME = "name"
    PORT = "port"
    TLS = "TLS"
    ROLE = "role"
    CLOCK = "clock"
    VERSION = "version"
    MODEL = "model"
    MEMORY = "memory"
    DISK = "disk"
    STORE = "store"


EXIT_CODES: dict[Kind, int] = {kind: 10 + number for number, kind in enumerate(Kind)}
"""0 says that nothing is bad; 1 and 2 are those of every command: an error, a wrong flag."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor.

    Attributes:
        what: what was found.
        remedy: what to do; empty for what is good.
        of: whom it is about: a peer, or this machine.
    """

    kind: Kind
    verdict: Verdict
    what: str
    remedy: str = ""
    of: str = "this machine"


def parted(said: object, remedy: str = "") -> tuple[str, str]:
    """What an error of ours says has happened, and what to do: it says so after its first semicolon.

    Args:
        remedy: where it does not say.
    """
    what, _, told = " ".join(str(said).split()).partition("; ")
    return what, told or remedy


def exit_code(findings: Iterable[Finding]) -> int:
    """The status that says of which kind the first bad finding is; 0 if there is none."""
    return next((EXIT_CODES[finding.kind] for finding in findings if finding.verdict == "bad"), 0)
