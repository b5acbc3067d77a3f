"""SS-OP: activations are turned within their public top subspace before they leave the client, and back at the end.

h becomes h·Q with Q = I + Vᵀ(R − I)V: V (rank, width) holds the top right singular vectors of centred public
activations, R (rank, rank) is orthogonal, drawn from a secret. Q is never made: a turn is an update of rank `rank`.
The paper (arXiv 2601.13824) gives the idea; the definitions here are ours. docs/privacy.md says what a turn hides,
with figures, and what it does not.
"""

from dataclasses import dataclass

import numpy as np
import torch
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray
from scipy.linalg import eigh

from elsa.errors import MalformedError, SpecError
from elsa.privacy.gaussians import KEY_BYTES, Gaussians
from elsa.privacy.keys import Key
from elsa.v1.split_pb2 import SsopKey

Array = NDArray[np.float64]

MOST_OFF = 1e-5
"""How far the inner products of a basis may be from those of orthonormal rows."""


@dataclass(frozen=True, repr=False, eq=False)
class Turn:
    """One orthogonal Q; secret, though made of plain tensors: never to be kept or logged."""

    _basis: torch.Tensor  # V, (rank, width)
    _there: torch.Tensor  # (R − I)·V, (rank, width)
    _back: torch.Tensor  # (Rᵀ − I)·V, (rank, width)

    def hide(self, values: torch.Tensor) -> torch.Tensor:
        """`values`·Q: (tokens, width) float32, as are `values`. The gradient of it is `reveal`."""
        return torch.addmm(values, values @ self._basis.T, self._there)

    def reveal(self, values: torch.Tensor) -> torch.Tensor:
        """`values`·Qᵀ: undoes `hide`; (tokens, width) float32."""
        return torch.addmm(values, values @ self._basis.T, self._back)

    def __repr__(self) -> str:
        return f"Turn(rank={len(self._basis)}, width={self._basis.shape[1]})"


def turn(key: Key, basis: torch.Tensor, cut: int, epoch: int = 0) -> Turn:
    """The turn of a key, a public basis (rank, width), the number of blocks before the cut, and an epoch.

    Raises MalformedError for a basis that is not of orthonormal rows, and as `haar`.
    """
    public = _checked(basis)
    change = haar(key.secret, cut, epoch, len(public)) - np.eye(len(public))
    return Turn(_single(public), _single(change @ public), _single(change.T @ public))


def public_basis(activations: torch.Tensor, rank: int) -> torch.Tensor:
    """V: the top right singular vectors of the centred public activations; (rank, width) float32.

    Signs are such that the largest entry of each row is positive.

    Args:
        activations: (tokens, width), of public text at the cut.

    Raises:
        SpecError: a rank below 1, above the width, or for which there are too few tokens.
        MalformedError: activations that are not (tokens, width) or not finite.
    """
    if activations.ndim != 2:
        raise MalformedError(f"activations: shape {tuple(activations.shape)}; it must be (tokens, width)")
    values = activations.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(values).all():
        raise MalformedError("activations: the public ones hold NaN or infinity at the cut; check the model")
    tokens, width = values.shape
    if not 1 <= rank <= min(width, tokens - 1):
        raise SpecError(
            f"privacy.ssop.rank: {rank}; it must be from 1 to {min(width, tokens - 1)}: the model's width is {width} "
            f"and there are {tokens} public tokens, of which one is lost to the mean"
        )
    centred = values - values.mean(0)
    # eigenvectors of the covariance: those of the few largest cost a fraction of all singular vectors
    columns = eigh(centred.T @ centred, subset_by_index=(width - rank, width - 1))[1]  # in rising order
    rows = columns.T[::-1]
    largest = rows[np.arange(rank), np.abs(rows).argmax(1)]
    return _single(rows * np.sign(largest)[:, None])


def haar(secret: bytes, cut: int, epoch: int, rank: int) -> Array:
    """An orthogonal matrix, uniform (Haar), that follows from its arguments alone; (rank, rank) float64.

    HKDF-SHA256 of the secret is the key of AES-256 in counter mode, whose stream makes Gaussians; Q of their QR
    decomposition, signed as the diagonal of R, is uniform (Mezzadri, arXiv math-ph/0609050). Machines agree to the
    rounding of their linear algebra.

    Raises:
        MalformedError: a cut or epoch that is negative or too large, a rank below 1 or above 65535.
    """
    if not (0 <= cut < 2**32 and 0 <= epoch < 2**64 and 1 <= rank < 2**16):
        raise MalformedError(f"cut {cut}, epoch {epoch}, rank {rank}: no turn follows from these")
    info = b"elsa/ssop/v1" + cut.to_bytes(4, "big") + epoch.to_bytes(8, "big") + rank.to_bytes(4, "big")
    key = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)
    orthogonal, upper = np.linalg.qr(Gaussians(key).draw(rank * rank).reshape(rank, rank))
    return np.asarray(orthogonal * np.where(np.diag(upper) < 0, -1.0, 1.0))


def key_to_proto(key: Key, *, renew_each_step: bool) -> SsopKey:
    """The key for an edge that is told it; the basis is the caller's to add."""
    return SsopKey(secret=key.secret, renew_each_step=renew_each_step)


def key_from_proto(message: SsopKey) -> tuple[Key, bool]:
    """The key, and whether it is renewed each step. Raises MalformedError for a secret that is not 32 bytes."""
    try:
        return Key(message.secret), message.renew_each_step
    except MalformedError as error:
        raise MalformedError(f"ssop.{error}") from None


def _checked(basis: torch.Tensor) -> Array:
    """The rows in double precision. Raises MalformedError unless they are orthonormal."""
    if basis.ndim != 2 or not 1 <= basis.shape[0] <= basis.shape[1]:
        raise MalformedError(f"ssop.basis: shape {tuple(basis.shape)}; it must be (rank, width), rank up to width")
    rows = basis.detach().to("cpu", torch.float64).numpy()
    off = float(np.abs(rows @ rows.T - np.eye(len(rows))).max())
    if not off <= MOST_OFF:  # NaN is refused too
        raise MalformedError(f"ssop.basis: its rows are off orthonormal by {off:.2g}; at most {MOST_OFF:g} is taken")
    return np.asarray(rows)


def _single(values: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
