"""The hash functions of a count sketch and the sparse map that they make, as docs/codecs.md specifies them."""

from collections.abc import Iterator

import torch

PRIME = 2**31 - 1
_WORD = 2**64 - 1


def splitmix64(seed: int) -> Iterator[int]:
    """The 64-bit numbers that SplitMix64 (Steele, Lea, Flood 2014) gives from `seed`."""
    state = seed
    while True:
        state = (state + 0x9E3779B97F4A7C15) & _WORD
        mixed = state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _WORD
        yield mixed ^ (mixed >> 31)


class Hashing:
    """`rows` pairwise independent hashes of `width` columns to `buckets` each, with a random sign a column.

    Row y draws a, b, c, d in turn from SplitMix64, each modulo P = 2^31 - 1; column i falls into bucket
    ((a·i + b) mod P) mod buckets, with sign minus where ((c·i + d) mod P) is odd.
    """

    def __init__(self, *, width: int, rows: int, buckets: int, seed: int) -> None:
        self.width, self.rows, self.columns = width, rows, rows * buckets
        numbers, place = splitmix64(seed), torch.arange(width)
        indices, signs = [], []
        for row in range(rows):
            a, b, c, d = (next(numbers) % PRIME for _ in range(4))
            indices.append(row * buckets + (a * place + b) % PRIME % buckets)
            signs.append(1.0 - 2.0 * ((c * place + d) % PRIME % 2))
        self._index = torch.cat(indices)
        self._sign = torch.stack(signs)  # (rows, width)

    def sketch(self, values: torch.Tensor) -> torch.Tensor:
        """(tokens, width) to (tokens, columns): the signed values that fall into each bucket, summed."""
        signed = (values.unsqueeze(1) * self._sign).reshape(len(values), -1)
        return values.new_zeros(len(values), self.columns).index_add_(1, self._index, signed.to(values.dtype))

    def estimates(self, sketched: torch.Tensor) -> torch.Tensor:
        """(tokens, columns) to (tokens, rows, width): what each row says of each column."""
        picked = sketched.index_select(1, self._index)
        return picked.view(len(sketched), self.rows, self.width).mul_(self._sign)

    def transposed(self, sketched: torch.Tensor) -> torch.Tensor:
        """(tokens, columns) to (tokens, width) through the transpose of `sketch`."""
        return self.estimates(sketched).sum(1)
