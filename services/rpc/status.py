"""The one table from errors to gRPC codes, read both ways.

A server raises `ElsaError`s; the interceptors of `services.rpc.server` turn them into a code and their text. A
caller's `translated` turns the code back. Whatever else is raised becomes INTERNAL, its detail in the log alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from elsa import errors

TABLE: tuple[tuple[type[errors.ElsaError], grpc.StatusCode], ...] = (
    (errors.MalformedError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.StepOrderError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.InputError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.SpecError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.DataError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.ModelError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.ArchitectureError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.SplitError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.CheckpointError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.AddressError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.ChecksumError, grpc.StatusCode.DATA_LOSS),
    (errors.NotFoundError, grpc.StatusCode.NOT_FOUND),
    (errors.StaleRoundError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.RoundGivenUpError, grpc.StatusCode.ABORTED),
    (errors.DrainingError, grpc.StatusCode.UNAVAILABLE),
    (errors.UnreachableError, grpc.StatusCode.UNAVAILABLE),
    (errors.CapacityError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.UnauthenticatedError, grpc.StatusCode.UNAUTHENTICATED),
    (errors.PermissionDeniedError, grpc.StatusCode.PERMISSION_DENIED),
    (errors.PeerError, grpc.StatusCode.INTERNAL),
    (errors.RoleDiedError, grpc.StatusCode.INTERNAL),
    (errors.ElsaError, grpc.StatusCode.INTERNAL),
)

_CODES = dict(TABLE)
_ERRORS: dict[grpc.StatusCode, type[errors.ElsaError]] = {}
for _error, _code in TABLE:
    _ERRORS.setdefault(_code, _error)
_ERRORS[grpc.StatusCode.DEADLINE_EXCEEDED] = errors.UnreachableError
_ERRORS[grpc.StatusCode.CANCELLED] = errors.UnreachableError


def code_of(error: errors.ElsaError) -> grpc.StatusCode:
    """The gRPC code of an error."""
    return _CODES[type(error)]


def error_of(error: grpc.RpcError, peer: str) -> errors.ElsaError:
    """The error that a failed call to `peer` means; codes that are not in the table give PeerError."""
    code, text = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE and _is_transport(text):
        return errors.UnreachableError(f"{peer} does not answer; check that it runs and its address")
    if code in _ERRORS and code is not grpc.StatusCode.INTERNAL:
        return _ERRORS[code](text)
    return errors.PeerError(f"{peer} failed ({code.name}): {text or 'no detail'}; see its log")


@contextmanager
def translated(peer: str) -> Iterator[None]:
    """Within it, a failed gRPC call to `peer` raises the error of `elsa.errors` that it means."""
    try:
        yield
    except grpc.RpcError as error:
        raise error_of(error, peer) from error


def _is_transport(text: str) -> bool:
    return any(word in text for word in ("connect", "Connect", "Socket", "GOAWAY", "recvmsg", "DNS", "resolve"))
