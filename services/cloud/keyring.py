"""Takes the wrapped keys that a client hands on for others, checks them, and keeps them for their receivers."""

from dataclasses import dataclass, replace

import numpy as np

from elsa.errors import MalformedError, PermissionDeniedError, RoundGivenUpError, StaleRoundError
from elsa.spec import RunSpec
from services.cloud.engine import Engine
from services.cloud.fleet import check_number
from services.cloud.keys import MOST_WANTING, Basis, works
from services.cloud.lifecycle import RunState
from services.cloud.offers import PUBLIC_KEY_BYTES
from services.cloud.records import KeyHolder, KeyMaking, Run, WrappedKey
from services.cloud.runs import member_of
from services.cloud.store import Store, Transaction

NONCE_BYTES, MOST_WRAPPED_BYTES = 12, 256
MOST_BASIS_BYTES = 900_000


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What a client hands on."""

    run_id: str
    client_id: str
    keys: tuple[WrappedKey, ...]
    basis: Basis


class Keyring:
    """The wrapped keys of all runs."""

    def __init__(self, store: Store, engine: Engine) -> None:
        self._store, self._engine = store, engine

    def share(self, shared: Shared) -> None:
        """Keep wrapped keys and the basis; whoever comes first in a run has made its key.

        A key for one that has its key already is dropped, so that the same may come twice.

        Raises:
            NotFoundError: an unknown run or node.
            PermissionDeniedError: a node that is no client of the run.
            StaleRoundError: a run that does not train yet, or that has the key of another client.
            RoundGivenUpError: a run that has ended.
            MalformedError: a run that shares no key, or what is out of bounds.
        """
        _check_bounds(shared)
        with self._store.transaction() as transaction:
            making = _making(transaction, shared)
            if making.basis is None:
                made = replace(making, maker_id=shared.client_id, width=shared.basis.width, basis=shared.basis.data)
                transaction.put(made)
            elif making.maker_id != shared.client_id:
                raise StaleRoundError(
                    f"run {shared.run_id} has the key of {making.maker_id} already; wait for the one wrapped for you"
                )
            elif (making.width, making.basis) != (shared.basis.width, shared.basis.data):
                raise MalformedError("basis: another one than before; it is the same in every call")
            for key in shared.keys:
                _keep(transaction, key)
        self._engine.announce(shared.run_id)
        self._engine.kick(shared.run_id)


def _making(transaction: Transaction, shared: Shared) -> KeyMaking:
    """The making of the run's key, if this client may have a part in it. Raises as `Keyring.share`."""
    run = transaction.run(shared.run_id)
    member = member_of(transaction, shared.run_id, shared.client_id)
    if run.state.ended:
        raise RoundGivenUpError(f"run {run.run_id} has ended ({run.state})")
    if run.state is not RunState.TRAINING:
        raise StaleRoundError(f"run {run.run_id} is {run.state}; keys are shared once it trains")
    if not works(member):
        raise PermissionDeniedError(f"{shared.client_id} is no client of run {run.run_id} ({member.answer})")
    making = transaction.get(KeyMaking, run_id=run.run_id)
    if making is None:
        raise MalformedError(f"run_id: run {run.run_id} shares no key; its privacy.ssop is not for it")
    _check_rank(run, shared.basis)
    return making


def _keep(transaction: Transaction, key: WrappedKey) -> None:
    if transaction.get(KeyHolder, run_id=key.run_id, client_id=key.client_id) is None:
        raise MalformedError(f"keys.to_client_id: {key.client_id[:80]!r} is no client of run {key.run_id}")
    if transaction.get(WrappedKey, run_id=key.run_id, client_id=key.client_id) is None:
        transaction.put(key)


def _check_bounds(shared: Shared) -> None:
    check_number("keys, their count", len(shared.keys), 0, MOST_WANTING)
    if len({key.client_id for key in shared.keys}) < len(shared.keys):
        raise MalformedError("keys.to_client_id: a client stands there twice")
    for key in shared.keys:
        if key.from_client_id != shared.client_id or key.client_id == shared.client_id:
            raise MalformedError(
                f"keys: one from {key.from_client_id[:80]!r} to {key.client_id[:80]!r}; {shared.client_id} hands on "
                "what it has wrapped itself, for others"
            )
        check_number("keys.public_key, its bytes", len(key.public_key), PUBLIC_KEY_BYTES, PUBLIC_KEY_BYTES)
        check_number("keys.nonce, its bytes", len(key.nonce), NONCE_BYTES, NONCE_BYTES)
        check_number("keys.ciphertext, its bytes", len(key.ciphertext), 1, MOST_WRAPPED_BYTES)
    check_number("basis.data, its bytes", len(shared.basis.data), 4, MOST_BASIS_BYTES)
    if not np.isfinite(np.frombuffer(shared.basis.data, "<f4")).all():
        raise MalformedError("basis: holds NaN or infinity")


def _check_rank(run: Run, basis: Basis) -> None:
    ssop = RunSpec.from_yaml(run.spec).privacy.ssop
    if ssop is not None and basis.rows != ssop.rank:
        raise MalformedError(f"basis.shape: {basis.rows} rows; privacy.ssop.rank is {ssop.rank}")
