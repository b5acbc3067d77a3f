"""Probes: public sentences from which a run learns how a model's activations lie, and how its clients differ.

Everyone knows them, so nothing in them is secret and nothing of a client's rows is. The project's own stand in
probes.txt beside this module; an operator may give a file instead. Both sides compare `probes_sha256`.
"""

import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from elsa.clustering import ProbesSpec
from elsa.errors import DataError

VERSION = 1
FEWEST = 8
MOST = 1024
MOST_BYTES = 900  # of a probe in UTF-8; all together then fit one message


def public_probes() -> tuple[str, ...]:
    """The project's own probes: 128 English sentences of 4 to 40 words, in the file's order."""
    text = resources.files("elsa.data").joinpath("probes.txt").read_text(encoding="utf-8")
    head, *lines = text.splitlines()
    if f"version {VERSION}:" not in head:
        raise DataError(f"probes.txt begins {head!r}, not with version {VERSION}; install the package again")
    return tuple(lines)


def probes_of(spec: ProbesSpec) -> tuple[str, ...]:
    """The probes of a run: the first `count` of the operator's, or of the project's own."""
    return (spec.sentences or public_probes())[: spec.count]


def read_probes(path: Path) -> tuple[str, ...]:
    """The probes in a user's file: UTF-8 text, one a line, blanks around them taken off, in the file's order.

    Empty lines are passed over.

    Raises:
        DataError: naming the file and the line: it cannot be read, is not UTF-8, or holds a line that stands there
            twice or is too long, fewer than 8 probes, or more than 1024.
    """
    found: dict[str, int] = {}
    for number, line in enumerate(map(str.strip, _text(path).split("\n")), start=1):
        if len(line.encode()) > MOST_BYTES:
            raise DataError(f"{path}, line {number}: {len(line.encode())} bytes; a probe may have {MOST_BYTES}")
        if line and found.setdefault(line, number) != number:
            raise DataError(f"{path}, line {number}: the same as line {found[line]}; probes must differ")
    if not FEWEST <= len(found) <= MOST:
        raise DataError(f"{path} holds {len(found)} probes; it needs {FEWEST} to {MOST}, one a line")
    return tuple(found)


def probes_sha256(probes: Sequence[str]) -> str:
    """SHA-256, lower-case hexadecimal, of the probes in UTF-8, in order, a line feed after each."""
    return hashlib.sha256("".join(f"{probe}\n" for probe in probes).encode()).hexdigest()


def _text(path: Path) -> str:
    limit = MOST * (MOST_BYTES + 2)
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > limit:
        raise DataError(f"{path} is larger than {limit} bytes; give at most {MOST} probes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: not UTF-8; save the file as UTF-8 text") from error
