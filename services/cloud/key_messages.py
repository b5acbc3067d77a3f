"""What clients share keys with, as messages."""

from elsa.errors import MalformedError
from elsa.v1 import fleet_pb2
from elsa.v1.tensor_pb2 import DType, Tensor
from services.cloud.keyring import Shared
from services.cloud.keys import Basis, Exchange
from services.cloud.records import WrappedKey


def exchange_to_proto(exchange: Exchange | None) -> fleet_pb2.KeyExchange | None:
    """What a client is told of the run's key; None where there is none."""
    if exchange is None:
        return None
    wanting = [fleet_pb2.KeyMember(client_id=who.client_id, public_key=who.public_key) for who in exchange.wanting]
    message = fleet_pb2.KeyExchange(makes=exchange.makes, wanting=wanting)
    if exchange.wrapped is not None:
        message.wrapped.CopyFrom(_wrapped_to_proto(exchange.wrapped))
    if exchange.basis is not None:
        basis = exchange.basis
        message.basis.CopyFrom(Tensor(dtype=DType.DTYPE_FLOAT32, shape=[basis.rows, basis.width], data=basis.data))
    return message


def shared_from_proto(request: fleet_pb2.ShareKeysRequest) -> Shared:
    """What a client hands on, its sizes not yet checked. Raises MalformedError for a basis that is no matrix."""
    return Shared(
        run_id=request.run_id,
        client_id=request.client_id,
        keys=tuple(_wrapped_from_proto(request.run_id, key) for key in request.keys),
        basis=_basis_from_proto(request.basis),
    )


def _basis_from_proto(tensor: Tensor) -> Basis:
    if tensor.dtype != DType.DTYPE_FLOAT32:
        raise MalformedError(f"basis.dtype: {tensor.dtype}; it must be {DType.DTYPE_FLOAT32} (float32)")
    shape = list(tensor.shape)
    if len(shape) != 2 or not 1 <= shape[0] <= shape[1] < 2**31 or len(tensor.data) != 4 * shape[0] * shape[1]:
        raise MalformedError(
            f"basis: shape {shape[:4]} with {len(tensor.data)} bytes; it must be (rank, width), rank up to width, "
            "with 4 bytes an element"
        )
    return Basis(width=shape[1], data=tensor.data)


def _wrapped_to_proto(key: WrappedKey) -> fleet_pb2.WrappedKey:
    return fleet_pb2.WrappedKey(
        from_client_id=key.from_client_id,
        to_client_id=key.client_id,
        public_key=key.public_key,
        nonce=key.nonce,
        ciphertext=key.ciphertext,
    )


def _wrapped_from_proto(run_id: str, message: fleet_pb2.WrappedKey) -> WrappedKey:
    return WrappedKey(
        run_id=run_id,
        client_id=message.to_client_id,
        from_client_id=message.from_client_id,
        public_key=message.public_key,
        nonce=message.nonce,
        ciphertext=message.ciphertext,
    )
