"""An adversarially trained bottom: a small inverter in the client's loss, which the bottom learns to defeat.

It stands between the bottom and the wire in the client alone and is thrown away afterwards; neither it nor its
gradient is ever sent. What it buys is measured against inverters that were trained on the finished bottom, not
against this one.
"""

import math
from collections.abc import Collection

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, normalize

from elsa.errors import MalformedError
from elsa.model.segment import Segment
from elsa.protection import AdversarySpec
from elsa.spec import RunSpec

CANDIDATES = 1024
"""Tokens that the inverter chooses among: those of the batch, and others at random."""
SHARPNESS = 20.0
"""Cosines times this are the logits."""
RATE = 1e-3
STEPS = 2
"""Steps of the inverter for one of the client: one that lags behind is defeated without hiding anything."""


class Adversary:
    """An inverter with an optimizer of its own, and the loss that it adds to the client's.

    Args:
        width: of a hidden state.
        embeddings: (vocabulary, anything) frozen token embeddings, which the inverter aims at.
        seed: of its first values and of its choice of candidates.
        special: numbers of special tokens. Their place gives them away, so there is nothing to hide, and hiding them
            would spoil the state that a classifier reads.
    """

    def __init__(
        self,
        spec: AdversarySpec,
        width: int,
        embeddings: torch.Tensor,
        seed: int,
        special: Collection[int] = (),
    ) -> None:
        self._spec = spec
        self._special = torch.tensor(sorted(special), dtype=torch.int64)
        self._targets = normalize(embeddings.detach().float(), dim=1)
        self._generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._inverter = nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, spec.width),
                nn.GELU(),
                nn.Linear(spec.width, self._targets.shape[1]),
            )
        self._optimizer = torch.optim.AdamW(self._inverter.parameters(), lr=RATE)

    def loss(self, activations: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """A scalar to add to the client's loss; then the inverter learns from the same states, without their graph.

        It is weight · mean over tokens of max(0, 1 − CE / log C): the share of what there is to know of a token that
        the inverter gets, CE being its cross-entropy among C candidates. It lies within [0, weight], and has no
        gradient at tokens for which the inverter is no better than chance, so it can neither outgrow the client's own
        loss nor reward more than chance.

        Args:
            activations: (tokens, width) with their graph, as they leave but for turn and codec.
            ids: (tokens,) the tokens they are of.

        Raises:
            MalformedError: another number of ids than of activations.
        """
        if ids.shape != activations.shape[:1]:
            raise MalformedError(f"{len(ids)} ids for {len(activations)} activations; give one id a token")
        counted = ~torch.isin(ids, self._special)
        if not bool(counted.any()):
            return activations.sum() * 0.0
        activations, ids = activations[counted], ids[counted]
        candidates, places = self._candidates(ids)
        fixed = {name: value.detach().clone() for name, value in self._inverter.named_parameters()}
        guess = functional_call(self._inverter, fixed, (activations,))
        known = 1 - self._entropy(guess, candidates, places) / math.log(len(candidates))
        self._learn(activations.detach(), candidates, places)
        return self._spec.weight * known.clamp_min(0).mean()

    @torch.no_grad()
    def accuracy(self, activations: torch.Tensor, ids: torch.Tensor) -> float:
        """Share of the tokens that the inverter names among its candidates."""
        candidates, places = self._candidates(ids)
        guess = self._logits(self._inverter(activations), candidates).argmax(1)
        return float((guess == places).float().mean())

    def _learn(self, states: torch.Tensor, candidates: torch.Tensor, places: torch.Tensor) -> None:
        with torch.enable_grad():
            for _ in range(STEPS):
                self._optimizer.zero_grad(set_to_none=True)
                self._entropy(self._inverter(states), candidates, places).mean().backward()  # type: ignore[no-untyped-call]
                self._optimizer.step()

    def _entropy(self, guess: torch.Tensor, candidates: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """(tokens,) cross-entropy of the inverter's output (tokens, embedding)."""
        return cross_entropy(self._logits(guess, candidates), places, reduction="none")

    def _logits(self, guess: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """(tokens, candidates)."""
        return SHARPNESS * normalize(guess, dim=1) @ self._targets[candidates].T

    def _candidates(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(candidates,) token numbers, those of the batch among them, and (tokens,) the place of each token there."""
        vocabulary = len(self._targets)
        drawn = torch.randint(vocabulary, (min(CANDIDATES, vocabulary),), generator=self._generator)
        candidates = torch.cat([ids, drawn]).unique()  # type: ignore[no-untyped-call]
        return candidates, torch.searchsorted(candidates, ids)


def adversary_of(spec: RunSpec, segment: Segment, special: Collection[int]) -> Adversary | None:
    """The opponent of a run for the bottom of a client's `segment`; None where it has none. `special` as above."""
    wanted = spec.privacy.adversary
    if wanted is None:
        return None
    return Adversary(wanted, segment.width, segment.model.get_input_embeddings().weight, spec.seed, special)
