"""Lets calls in by who calls: certificate, rates, role, and whether messages name the caller itself.

A caller is what TLS has checked; its messages are held against the table of `services.rpc.policy` as they come. A
certificate that is revoked or runs out ends its open streams: with their next message, and where none comes, when all
open streams are looked through. The interceptors of both kinds of server, `guarding` and `guarding_aio`, ask here.
"""

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

from elsa.errors import CapacityError, ElsaError, PermissionDeniedError, UnauthenticatedError
from services.rpc import policy
from services.rpc.caller import Caller, caller_of
from services.rpc.handlers import Handler
from services.rpc.open_streams import LOOKED_THROUGH_S
from services.rpc.rates import Buckets, Rates

log = logging.getLogger(__name__)

REQUEST_S = 10.0
REFUSALS_LOGGED_PER_S, REFUSALS_LOGGED_BURST = 1.0, 20
"""Of each identity: whoever is refused all the time does not fill the log."""
REASONS: Mapping[type[ElsaError], str] = {
    UnauthenticatedError: "identity",
    PermissionDeniedError: "permission",
    CapacityError: "rate",
}
"""Why a guard refuses, in a word."""
WORDS: Mapping[type[ElsaError], str] = {
    UnauthenticatedError: "it shows no certificate of one identity",
    PermissionDeniedError: "it may not call this, or not under that name",
    CapacityError: "it calls, sends or keeps open more than it may",
}
"""The same for the log, where nothing is wrong with the certificate."""
RAN_OUT, REVOKED = "its certificate has run out", "its certificate is revoked"


def utc_now() -> datetime:
    """Now."""
    return datetime.now(UTC)


class Guard:
    """Who may do what at one server. For any thread.

    Args:
        server: what serves.
        revoked: whether the certificate of a serial number is revoked.
        clock: the time, with its zone.
        looked_through_s: seconds between two looks at calls that are silent.
        request_s: for the only request of a call to come, where one that waits holds a thread.
    """

    def __init__(
        self,
        server: policy.Server,
        revoked: Callable[[int], bool],
        rates: Rates,
        clock: Callable[[], datetime] = utc_now,
        *,
        looked_through_s: float = LOOKED_THROUGH_S,
        request_s: float = REQUEST_S,
    ) -> None:
        self.rates = rates
        self.looked_through_s = looked_through_s
        self.request_s = request_s
        self._server = server
        self._revoked = revoked
        self._clock = clock
        self._lines = Buckets(REFUSALS_LOGGED_PER_S, REFUSALS_LOGGED_BURST)
        self._lock = threading.Lock()
        self._refused: Counter[str] = Counter()

    @property
    def refused(self) -> Mapping[str, int]:
        """How often was refused what, by the reasons of `REASONS`."""
        with self._lock:
            return {reason: self._refused[reason] for reason in REASONS.values()}

    def admit(self, method: str, auth_context: Mapping[str, Iterable[bytes]]) -> Caller:
        """Who calls `method`, before any of its messages.

        Raises:
            UnauthenticatedError: no certificate, or one that names nobody, is revoked or has run out.
            PermissionDeniedError: its role may not call this.
            CapacityError: it calls too often.
        """
        with self.noting(method, None):
            caller = caller_of(auth_context)
        with self.noting(method, caller):
            self._check_good(caller)
            self.rates.call(caller.identity)
            policy.check_role(self._server, method, caller.identity)
        return caller

    def check(self, method: str, caller: Caller, request: Any, *, first: bool = True) -> None:
        """Check a message of a call that was let in.

        Raises UnauthenticatedError once the certificate is good no more, PermissionDeniedError for another's name.
        """
        with self.noting(method, caller):
            self._check_good(caller)
            policy.check(self._server, method, caller.identity, request, first=first)

    def recheck(self, method: str, caller: Caller) -> None:
        """Raise UnauthenticatedError once the certificate is good no more."""
        with self.noting(method, caller):
            self._check_good(caller)

    def fault(self, caller: Caller) -> str:
        """What makes the caller's certificate good no more, in words; empty while nothing does."""
        if self._clock() >= caller.not_after:
            return RAN_OUT
        return REVOKED if self._revoked(caller.serial) else ""

    @contextmanager
    def noting(self, method: str, caller: Caller | None) -> Iterator[None]:
        """Within it, a refusal is logged: who, what and of which kind, nothing of what was asked."""
        try:
            yield
        except tuple(REASONS) as error:
            with self._lock:
                self._refused[REASONS[type(error)]] += 1
                loud = not self._lines.take(caller and caller.identity, 1, time.monotonic())
            if loud:
                why = (caller and self.fault(caller)) or WORDS[type(error)]
                log.warning("refused %s: %s: %s", caller or "somebody unknown", method, why)
            raise

    def refusal(self, caller: Caller) -> UnauthenticatedError | None:
        """What a caller is told whose certificate is good no more; None while it is."""
        fault = self.fault(caller)
        if fault == RAN_OUT:
            return UnauthenticatedError(f"the certificate of {caller} ran out; renew it with elsa pki renew")
        if fault:
            return UnauthenticatedError(
                f"the certificate of {caller} is revoked; have a new one signed by elsa pki sign"
            )
        return None

    def _check_good(self, caller: Caller) -> None:
        if refusal := self.refusal(caller):
            raise refusal


class Call:
    """One call that was let in; its messages are checked as they come."""

    def __init__(self, guard: Guard, method: str, context: Any) -> None:
        self._guard = guard
        self._method = method
        self._first = True
        self._awaits_until_s = math.inf
        self.caller = guard.admit(method, context.auth_context())

    @contextmanager
    def holding(self, *, stream: bool, thread: bool = False) -> Iterator[None]:
        """Within it, it counts as open: as a `stream`, as what holds a `thread`. Raises CapacityError."""
        rates, who = self._guard.rates, self.caller.identity
        with ExitStack() as held:
            with self._guard.noting(self._method, self.caller):
                if thread:
                    rates.hold_thread(who)
                    held.callback(rates.free_thread, who)
                if stream:
                    rates.open_stream(who)
                    held.callback(rates.close_stream, who)
            yield

    @contextmanager
    def awaiting_request(self) -> Iterator[None]:
        """Within it, its only request is waited for."""
        self._awaits_until_s = time.monotonic() + self._guard.request_s
        yield
        self._awaits_until_s = math.inf

    def why_over(self) -> str:
        """Why it is not to go on, or ''."""
        if fault := self._guard.fault(self.caller):
            return f"{self.caller}: {fault}"
        if time.monotonic() > self._awaits_until_s:
            return f"{self.caller} sent no request within {self._guard.request_s:g} s"
        return ""

    def over(self) -> UnauthenticatedError:
        """What its caller is told once it is not to go on."""
        return self._guard.refusal(self.caller) or UnauthenticatedError(self.why_over())

    def request(self, message: Any, size_bytes: int) -> Any:
        """The one message of a call. Raises as `Guard.check`, and CapacityError."""
        with self._guard.noting(self._method, self.caller):
            self._guard.rates.message(self.caller.identity, size_bytes)
        return self.passed(message)

    def pause_s(self, size_bytes: int) -> float:
        """Seconds until a message of a stream may be counted, 0 once it is: streams are slowed, not broken."""
        return self._guard.rates.pause_s(self.caller.identity, size_bytes)

    def passed(self, message: Any) -> Any:
        """The message, checked."""
        first, self._first = self._first, False
        self._guard.check(self._method, self.caller, message, first=first)
        return message

    def recheck(self) -> None:
        """Before an answer of a stream."""
        self._guard.recheck(self._method, self.caller)


def sized(handler: Handler) -> Callable[[bytes], tuple[Any, int]]:
    """Gives a message and its bytes, which nobody needs to count again."""
    read = handler.request_deserializer or bytes
    return lambda data: (read(data), len(data))


def is_stream(handler: Handler) -> bool:
    return bool(handler.request_streaming or handler.response_streaming)
