"""The one table from errors to gRPC codes, read both ways.

A server raises `ElsaError`s; the interceptors of `services.rpc.translating` turn them into a code, their text and, in
the trailing metadata, their name. A caller's `translated` turns that back: by the name where there is one, else by
the code. Whatever else is raised becomes INTERNAL, its detail in the log alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from elsa import errors
from services.rpc.handshake import handshake_fault

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
    (errors.NotFiniteError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.ChecksumError, grpc.StatusCode.DATA_LOSS),
    (errors.NotFoundError, grpc.StatusCode.NOT_FOUND),
    (errors.StaleRoundError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.TakenError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.RoundGivenUpError, grpc.StatusCode.ABORTED),
    (errors.DrainingError, grpc.StatusCode.UNAVAILABLE),
    (errors.UnreachableError, grpc.StatusCode.UNAVAILABLE),
    (errors.HandshakeError, grpc.StatusCode.UNAVAILABLE),
    (errors.CapacityError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.FullDiskError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.UnauthenticatedError, grpc.StatusCode.UNAUTHENTICATED),
    (errors.PermissionDeniedError, grpc.StatusCode.PERMISSION_DENIED),
    (errors.PeerError, grpc.StatusCode.INTERNAL),
    (errors.RoleDiedError, grpc.StatusCode.INTERNAL),
    (errors.ElsaError, grpc.StatusCode.INTERNAL),
)

NAME_KEY = "elsa-error"
"""Key of the trailing metadata that names the error: UNAVAILABLE from gRPC itself has none."""

_CODES = dict(TABLE)
_NAMED = {error.__name__: error for error, _ in TABLE}
_ERRORS: dict[grpc.StatusCode, type[errors.ElsaError]] = {}
for _error, _code in TABLE:
    _ERRORS.setdefault(_code, _error)
_SILENCE = {
    grpc.StatusCode.UNAVAILABLE: "does not answer; check that it runs and its address",
    grpc.StatusCode.DEADLINE_EXCEEDED: "did not answer in time; check its load and the network",
    grpc.StatusCode.CANCELLED: "was not heard out: the call was cancelled",
}
"""What a code of gRPC's own says of a peer."""


def code_of(error: errors.ElsaError) -> grpc.StatusCode:
    """The gRPC code of an error."""
    return _CODES[type(error)]


def name_of(error: errors.ElsaError) -> tuple[tuple[str, str], ...]:
    """The trailing metadata that tells a caller which error it was."""
    return ((NAME_KEY, type(error).__name__),)


def error_of(error: grpc.RpcError, peer: str) -> errors.ElsaError:
    """The error that a failed call to `peer` means; codes that are not in the table give PeerError."""
    code, text = error.code(), error.details() or ""
    named = _NAMED.get(_metadata(error).get(NAME_KEY, ""))
    if named is not None and _CODES[named] is code and code is not grpc.StatusCode.INTERNAL:
        return named(text)
    if code in _SILENCE:
        fault = handshake_fault(text)
        return (
            errors.HandshakeError(f"{peer} {fault}") if fault else errors.UnreachableError(f"{peer} {_SILENCE[code]}")
        )
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
    except ValueError as error:
        if "channel" not in str(error).lower():  # gRPC's word for a call on a channel that was closed meanwhile
            raise
        raise errors.UnreachableError(f"{peer} was not asked: the channel was closed") from error


def _metadata(error: Any) -> dict[str, Any]:
    return {str(key): value for key, value in error.trailing_metadata() or ()}
