"""One training session of an edge: what was agreed on, what it holds while it is open, what is left of it."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from elsa.spec import Split
from elsa.train.edge_end import EdgeEnd, EdgeStream
from elsa.train.phases import ByteCount, Stopwatch
from elsa.train.session import TrunkSession
from services.edge.answers import Answers


@dataclass(frozen=True, kw_only=True)
class Agreed:
    """What a client and the edge agreed on when the session was opened."""

    run_id: str
    client: str
    version: int
    edge_round: int
    split: Split
    window: int
    wants_gradient: bool


@dataclass(kw_only=True, eq=False)
class Session:
    """One client's session; `release` gives its slot back, `cancel` ends the stream that it is on and names it.

    `forget` drops what is kept of its client's rows.
    """

    agreed: Agreed
    trunk: TrunkSession
    end: EdgeEnd
    exchange: EdgeStream
    answers: Answers
    release: Callable[[], object]
    forget: Callable[[], object]
    cancel: Callable[[], object]
    session_id: str = field(default_factory=lambda: secrets.token_hex(8))
    resume_token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    watch: Stopwatch = field(default_factory=Stopwatch)
    bytes: ByteCount = field(default_factory=ByteCount)
    last_s: float = 0.0
    computing: int = 0
    streams: int = 0


@dataclass(frozen=True, kw_only=True)
class Committed:
    """The trunk tensors of a finished session, by PEFT name; `answer` is what its client was told, encoded."""

    session_id: str
    resume_token: str = field(repr=False)
    agreed: Agreed
    answer: bytes = field(repr=False)
    tensors: Mapping[str, np.ndarray] = field(repr=False)


def is_of(kept: Session | Committed, token: str, run_id: str, client: str) -> bool:
    """Whether that resume token is a session's, and the session that client's in the run."""
    same = (kept.agreed.run_id, kept.agreed.client) == (run_id, client)
    return same and secrets.compare_digest(kept.resume_token.encode(), token.encode())
