"""What a client computes of a BERT: embeddings and first blocks, last blocks and head, forward and backward.

Every part returns its output and a function that takes the gradient of the loss by that output, adds to the gradients
of what is trained, and returns the gradient by its input. Hidden states are (rows, tokens, width), float32.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Back = Callable[[Array], Array]
PEFT = "base_model.model."
"""Before the name of every trained tensor."""


class Bert:
    """The parts of one client.

    Args:
        config: the model's config.json.
        base: frozen tensors by name.
        scale: of LoRA: alpha / rank.

    Attributes:
        adapter: trained tensors by PEFT's names; to be set before use.
        gradients: of the loss by them, summed until `take_gradients`.
    """

    def __init__(self, config: Mapping[str, object], base: Mapping[str, Array], scale: float) -> None:
        self._heads = int(str(config["num_attention_heads"]))
        self._epsilon = float(str(config["layer_norm_eps"]))
        self._base = base
        self._scale = scale
        self.adapter: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}

    def take_gradients(self) -> dict[str, Array]:
        """The gradients so far; they begin from zero again."""
        taken, self.gradients = self.gradients, {}
        return taken

    def bottom(self, ids: NDArray[np.int64], mask: NDArray[np.bool_], blocks: Iterable[int]) -> tuple[Array, Back]:
        """Hidden states after `blocks` of token numbers (rows, tokens); `mask` says which are no padding."""
        table = "bert.embeddings.{}_embeddings.weight".format
        hidden = self._tensor(table("word"))[ids] + self._tensor(table("token_type"))[0]
        hidden, _ = self._norm("bert.embeddings.LayerNorm", hidden + self._tensor(table("position"))[: ids.shape[1]])
        return self._blocks(hidden, mask, blocks)

    def top(self, hidden: Array, mask: NDArray[np.bool_], blocks: Iterable[int]) -> tuple[Array, Back]:
        """Logits (rows, labels) of hidden states that the trunk gave."""
        hidden, to_blocks = self._blocks(hidden, mask, blocks)
        pooled, to_pooler = self._dense("bert.pooler.dense", hidden[:, 0])
        pooled = np.tanh(pooled)
        logits, to_classifier = self._dense("classifier", pooled)

        def back(gradient: Array) -> Array:
            first = np.zeros_like(hidden)
            first[:, 0] = to_pooler(to_classifier(gradient) * (1 - pooled**2))
            return to_blocks(first)

        return logits, back

    def _blocks(self, hidden: Array, mask: NDArray[np.bool_], blocks: Iterable[int]) -> tuple[Array, Back]:
        backs: list[Back] = []
        for number in blocks:
            hidden, back = self._block(f"bert.encoder.layer.{number}", hidden, mask)
            backs.append(back)
        return hidden, _chained(backs)

    def _block(self, name: str, hidden: Array, mask: NDArray[np.bool_]) -> tuple[Array, Back]:
        attended, to_attention = self._attention(f"{name}.attention", hidden, mask)
        middle, to_middle = self._norm(f"{name}.attention.output.LayerNorm", hidden + attended)
        wide, to_wide = self._dense(f"{name}.intermediate.dense", middle)
        bent, to_bent = _gelu(wide)
        narrow, to_narrow = self._dense(f"{name}.output.dense", bent)
        out, to_out = self._norm(f"{name}.output.LayerNorm", middle + narrow)

        def back(gradient: Array) -> Array:
            gradient = to_out(gradient)
            gradient = to_middle(gradient + to_wide(to_bent(to_narrow(gradient))))
            return gradient + to_attention(gradient)

        return out, back

    def _attention(self, name: str, hidden: Array, mask: NDArray[np.bool_]) -> tuple[Array, Back]:
        made = [self._dense(f"{name}.self.{part}", hidden) for part in ("query", "key", "value")]
        query, key, value = (_by_head(states, self._heads) for states, _ in made)
        share = np.float32(query.shape[-1] ** -0.5)
        logits = query @ key.swapaxes(2, 3) * share
        weights = _softmax(np.where(mask[:, None, None, :], logits, np.float32(-1e30)))
        out, to_dense = self._dense(f"{name}.output.dense", _together(weights @ value))

        def back(gradient: Array) -> Array:
            gradient = _by_head(to_dense(gradient), self._heads)
            by_weights = gradient @ value.swapaxes(2, 3)
            by_logits = weights * (by_weights - (by_weights * weights).sum(-1, keepdims=True)) * share
            by = by_logits @ key, by_logits.swapaxes(2, 3) @ query, weights.swapaxes(2, 3) @ gradient
            (_, to_query), (_, to_key), (_, to_value) = made
            return to_query(_together(by[0])) + to_key(_together(by[1])) + to_value(_together(by[2]))

        return out, back

    def _dense(self, name: str, given: Array) -> tuple[Array, Back]:
        """W x + b, and scale · B A x where the adapter has factors for it."""
        weight, bias = self._tensor(f"{name}.weight"), self._tensor(f"{name}.bias")
        out = given @ weight.T + bias
        saved = PEFT + name
        a, b = (self.adapter.get(f"{saved}.lora_{factor}.weight") for factor in "AB")
        low = None if a is None else given @ a.T * np.float32(self._scale)
        if b is not None and low is not None:
            out = out + low @ b.T

        def back(gradient: Array) -> Array:
            by = gradient @ weight
            if a is not None and b is not None and low is not None:
                by_low = gradient @ b * np.float32(self._scale)
                self._add(f"{saved}.lora_B.weight", _outer(gradient, low))
                self._add(f"{saved}.lora_A.weight", _outer(by_low, given))
                by = by + by_low @ a
            if f"{saved}.weight" in self.adapter:
                self._add(f"{saved}.weight", _outer(gradient, given))
                self._add(f"{saved}.bias", gradient.reshape(-1, gradient.shape[-1]).sum(0))
            return by

        return out, back

    def _norm(self, name: str, given: Array) -> tuple[Array, Back]:
        weight, bias = self._tensor(f"{name}.weight"), self._tensor(f"{name}.bias")
        spread = np.sqrt(given.var(-1, keepdims=True) + np.float32(self._epsilon))
        normal = (given - given.mean(-1, keepdims=True)) / spread

        def back(gradient: Array) -> Array:
            by = gradient * weight
            along = normal * (by * normal).mean(-1, keepdims=True)
            around: Array = (by - by.mean(-1, keepdims=True) - along) / spread
            return around

        return normal * weight + bias, back

    def _tensor(self, name: str) -> Array:
        """A tensor that is trained whole, or else frozen."""
        return self.adapter[PEFT + name] if PEFT + name in self.adapter else self._base[name]

    def _add(self, name: str, gradient: Array) -> None:
        self.gradients[name] = self.gradients[name] + gradient if name in self.gradients else gradient


class AdamW:
    """AdamW (arXiv 1711.05101) on the tensors of `adapter`, with the settings of the run's specification."""

    def __init__(self, adapter: dict[str, Array], settings: Mapping[str, object]) -> None:
        self._adapter = adapter
        self._rate, self._decay = float(str(settings["learning_rate"])), float(str(settings["weight_decay"]))
        self._betas = [float(beta) for beta in settings["betas"]]  # type: ignore[attr-defined]
        self._epsilon = float(str(settings["epsilon"]))
        self._moments: dict[str, tuple[Array, Array]] = {}
        self._steps = 0

    def step(self, gradients: Mapping[str, Array]) -> None:
        """One step."""
        self._steps += 1
        first, second = self._betas
        for name, gradient in gradients.items():
            mean, square = self._moments.get(name, (np.zeros_like(gradient), np.zeros_like(gradient)))
            mean = first * mean + (1 - first) * gradient
            square = second * square + (1 - second) * gradient**2
            self._moments[name] = mean, square
            size = np.sqrt(square / (1 - second**self._steps)) + self._epsilon
            moved = self._rate * mean / (1 - first**self._steps) / size
            kept = self._adapter[name] * (1 - self._rate * self._decay)
            self._adapter[name] = (kept - moved).astype(np.float32)


def cross_entropy(logits: Array, labels: NDArray[np.int64], total: int) -> tuple[float, int, Array]:
    """The loss, summed over rows and divided by `total`; the rows that were hit; the gradient by `logits`."""
    shares, rows = _softmax(logits), np.arange(len(labels))
    loss = -np.log(np.maximum(shares[rows, labels], 1e-30)).sum() / total
    gradient = shares.copy()
    gradient[rows, labels] -= 1
    return float(loss), int((logits.argmax(1) == labels).sum()), gradient / np.float32(total)


def _chained(backs: list[Back]) -> Back:
    def back(gradient: Array) -> Array:
        for each in reversed(backs):
            gradient = each(gradient)
        return gradient

    return back


def _gelu(given: Array) -> tuple[Array, Back]:
    """x Φ(x). NumPy has no error function: formula 7.1.26 of Abramowitz and Stegun, right to 1.5e-7."""
    t = 1 / (1 + np.float32(0.3275911 * 0.5**0.5) * np.abs(given))
    tail = np.exp(-(given**2) / 2)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    below = (1 + np.sign(given) * (1 - series * tail)) / 2
    slope = below + given * tail * np.float32((2 * np.pi) ** -0.5)
    return (given * below).astype(np.float32), lambda gradient: gradient * slope


def _softmax(logits: Array) -> Array:
    powers: Array = np.exp(logits - logits.max(-1, keepdims=True))
    shares: Array = powers / powers.sum(-1, keepdims=True)
    return shares


def _by_head(states: Array, heads: int) -> Array:
    """(rows, tokens, width) as (rows, heads, tokens, width / heads)."""
    rows, tokens, width = states.shape
    return states.reshape(rows, tokens, heads, width // heads).swapaxes(1, 2)


def _together(states: Array) -> Array:
    rows, heads, tokens, width = states.shape
    return states.swapaxes(1, 2).reshape(rows, tokens, heads * width)


def _outer(left: Array, right: Array) -> Array:
    """Σ left rightᵀ over all tokens: (columns of left, columns of right)."""
    return left.reshape(-1, left.shape[-1]).T @ right.reshape(-1, right.shape[-1])
