"""The key that the clients of a run share and its servers do not know: made here, or opened once it has come."""

import logging
import threading
from collections.abc import Callable

import torch

from elsa.errors import MalformedError, RoundGivenUpError, StaleRoundError
from elsa.privacy.keys import Key, KeyPair, Way, Wrapped, wrap
from elsa.privacy.ssop import turn
from elsa.v1.fleet_pb2 import KeyExchange, KeyMember, ShareKeysRequest, WrappedKey
from elsa.v1.tensor_pb2 import Tensor
from elsa.wire.tensor import DTYPES, Layout, raw_bytes

log = logging.getLogger(__name__)


class RunKeys:
    """This client's part in the run's key. `tell` and `close` may be called from any thread.

    The private key lives here alone; a client that restarts has another.

    Args:
        share: hands a request on to the cloud; raises what it answers.
    """

    def __init__(self, run_id: str, client_id: str, share: Callable[[ShareKeysRequest], object]) -> None:
        self._run_id = run_id
        self._client_id = client_id
        self._share = share
        self._pair = KeyPair()
        self._changed = threading.Condition()
        self._told = KeyExchange()
        self._closed = False

    @property
    def public_key(self) -> bytes:
        """32 bytes, for the offer to the run."""
        return self._pair.public_key

    def tell(self, exchange: KeyExchange) -> None:
        """The cloud's newest word on the key."""
        with self._changed:
            self._told = exchange
            self._changed.notify_all()

    def close(self) -> None:
        """Wait no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def obtain(self, layout: Layout, make_basis: Callable[[], torch.Tensor]) -> tuple[Key, torch.Tensor]:
        """The run's key and the public basis (rank, width), made here if we are asked to, else waited for.

        Args:
            layout: what the basis has to be.
            make_basis: from public text; called only if we are asked to make the key.

        Raises:
            MalformedError: a key that does not open, or a basis that is not of the layout or not orthonormal.
            RoundGivenUpError: closed meanwhile.
        """
        if self._wait(lambda told: told.makes or told.HasField("wrapped")).makes:
            key, basis = Key.random(), make_basis()
            try:
                self._hand_on(key, basis)
            except StaleRoundError as error:
                log.info("run %s: %s", self._run_id, error)
            else:
                return key, basis
        told = self._wait(lambda told: told.HasField("wrapped"))
        key, basis = self._opened(told.wrapped), _basis_from_proto(told.basis, layout)
        turn(key, basis, 0)  # refuses a basis that does not turn
        return key, basis

    def _hand_on(self, key: Key, basis: torch.Tensor) -> None:
        """Wrap the key for all wanting, portion by portion. Raises StaleRoundError if another client was first."""
        told, done = self._told, set[str]()
        while True:
            wanting = [member for member in told.wanting if member.client_id not in done]
            keys = [wrapped for member in wanting if (wrapped := self._wrapped(key, member)) is not None]
            request = ShareKeysRequest(run_id=self._run_id, client_id=self._client_id, keys=keys)
            request.basis.CopyFrom(_basis_to_proto(basis))
            self._share(request)
            log.info("run %s: made the key and wrapped it for %d clients", self._run_id, len(keys))
            done |= {member.client_id for member in wanting}
            if keys:
                told = self._told_other_than(told)
            if done >= {member.client_id for member in told.wanting}:
                return

    def _wrapped(self, key: Key, member: KeyMember) -> WrappedKey | None:
        """The key for one client; None if what it offered is no public key, which is its own fault alone."""
        way = Way(run_id=self._run_id, sender=self._client_id, receiver=member.client_id)
        try:
            made = wrap(key, member.public_key, way)
        except MalformedError as error:
            log.warning("run %s: %s; it gets no key", self._run_id, error)
            return None
        return WrappedKey(
            from_client_id=way.sender,
            to_client_id=way.receiver,
            public_key=made.public_key,
            nonce=made.nonce,
            ciphertext=made.ciphertext,
        )

    def _opened(self, message: WrappedKey) -> Key:
        wrapped = Wrapped(public_key=message.public_key, nonce=message.nonce, ciphertext=message.ciphertext)
        way = Way(run_id=self._run_id, sender=message.from_client_id, receiver=self._client_id)
        return self._pair.unwrap(wrapped, way)

    def _told_other_than(self, before: KeyExchange) -> KeyExchange:
        return self._wait(lambda told: told != before)

    def _wait(self, there: Callable[[KeyExchange], bool]) -> KeyExchange:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or there(self._told))
            if self._closed:
                raise RoundGivenUpError(f"stopped while waiting for the key of run {self._run_id}")
            return self._told


def _basis_to_proto(basis: torch.Tensor) -> Tensor:
    return Tensor(dtype=DTYPES[basis.dtype], shape=list(basis.shape), data=raw_bytes(basis))


def _basis_from_proto(message: Tensor, layout: Layout) -> torch.Tensor:
    """The basis. Raises MalformedError for another type, shape or number of bytes."""
    if (message.dtype, tuple(message.shape)) != (DTYPES[layout.dtype], layout.shape):
        raise MalformedError(f"keys.basis: type {message.dtype}, shape {list(message.shape)}; expected {layout}")
    if len(message.data) != layout.payload_bytes:
        raise MalformedError(f"keys.basis.data: {len(message.data)} bytes; expected {layout.payload_bytes}")
    return torch.frombuffer(bytearray(message.data), dtype=layout.dtype).reshape(layout.shape)
