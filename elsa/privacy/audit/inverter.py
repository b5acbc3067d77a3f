"""A4, the adaptive attacker: a network taught on public text under the same protection with keys of its own.

It learns what a protection leaves, whatever that is. Where states are turned it is shown only what no key changes:
the complement of V, and lengths and inner products of the turned parts of a text. It starts from the linear matcher,
so that what it learns comes on top.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from elsa.privacy.audit.lessons import Lesson, lessons
from elsa.privacy.audit.matching import TOKENS_AT_ONCE, Matcher, Prototypes, recovery_of
from elsa.privacy.audit.observed import Knowledge, Observed, Recovery
from elsa.privacy.audit.procrustes import complement_of

HIDDEN = 512
BATCH = 512  # tokens
NEGATIVES = 2048  # tokens of the vocabulary that a batch is to be told from, beside its own
PATIENCE = 2  # epochs without a better loss on held-out public text
RATE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long the attacker learns."""

    keys: int = 16  # lessons, each under a key of its own; an eighth as many again to stop by
    lesson_tokens: int = 2048
    epochs: int = 6
    seed: int = 0


class Inverter(nn.Module):
    """From a token and its neighbours to a point among the prototypes, whitened as the matcher has them."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inputs)
        self.hidden = nn.Linear(inputs, HIDDEN)
        self.out = nn.Linear(HIDDEN, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, start: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """(tokens, width) start and (tokens, inputs) features, to (tokens, width)."""
        moved: torch.Tensor = start + self.out(nn.functional.gelu(self.hidden(self.norm(features))))
        return moved


def learned(
    observed: Observed, knowledge: Knowledge, prototypes: Prototypes, effort: Effort | None = None
) -> Recovery:
    """A4: teach an inverter on public text, stop when held-out public text gains no more, and read the texts.

    The attacker knows the pretrained bottom, public text, and the protection with its codec and noise, but not the
    key, which may differ from text to text. Some of the public text's tokens are swapped for others, so that all of
    the vocabulary is seen. It costs one or two minutes on one core at width 384.
    """
    effort = effort or Effort()
    with torch.random.fork_rng():
        torch.manual_seed(effort.seed)
        basis = knowledge.basis
        matcher = Matcher(prototypes, seen=None if basis is None else complement_of(basis))
        taught, held = _material(knowledge, prototypes, matcher, effort)
        inverter = Inverter(taught[0].features.shape[1], taught[0].start.shape[1])
        epochs = _teach(inverter, matcher, taught, held, effort)
    content = knowledge.content(observed)
    exam = Lesson.of(observed, knowledge, prototypes, matcher).only(content)
    ranks = _ranks(inverter, matcher, exam)
    return recovery_of("A4 learned inverter", ranks, f"{epochs} epochs of {effort.keys} keys")


def _material(
    knowledge: Knowledge, prototypes: Prototypes, matcher: Matcher, effort: Effort
) -> tuple[list[Lesson], list[Lesson]]:
    """Lessons to learn from, and held-out ones, of other texts and keys."""
    extra = max(effort.keys // 8, 1)
    tokens, total = effort.lesson_tokens, effort.keys + extra
    every = list(lessons(knowledge, prototypes, matcher, keys=total, held=extra, tokens=tokens, seed=effort.seed))
    return every[: effort.keys], every[effort.keys :]


def _teach(
    inverter: Inverter, matcher: Matcher, taught: Sequence[Lesson], held: Sequence[Lesson], effort: Effort
) -> int:
    """Leave `inverter` as it was when the held-out loss was least; the epochs that were run."""
    optimizer = torch.optim.Adam(inverter.parameters(), lr=RATE)
    best, kept, epochs, waited = _loss(inverter, matcher, held), _copy(inverter), 0, 0
    while epochs < effort.epochs and waited < PATIENCE:
        for part in _batches(taught):
            optimizer.zero_grad()
            _part_loss(inverter, matcher, part).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        loss, epochs, waited = _loss(inverter, matcher, held), epochs + 1, waited + 1
        if loss < best:
            best, kept, waited = loss, _copy(inverter), 0
    inverter.load_state_dict(kept)
    return epochs


def _copy(inverter: Inverter) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in inverter.state_dict().items()}


def _batches(taught: Sequence[Lesson]) -> Iterator[Lesson]:
    for number in torch.randperm(len(taught)).tolist():
        lesson = taught[number]
        for at in torch.split(torch.randperm(len(lesson.ids)), BATCH):
            yield lesson.only(at)


def _part_loss(inverter: Inverter, matcher: Matcher, part: Lesson) -> torch.Tensor:
    """Cross-entropy among the part's own tokens and some drawn from the vocabulary."""
    drawn = torch.randperm(len(matcher.level))[:NEGATIVES]
    among, labels = torch.unique(torch.cat([part.ids, drawn]), return_inverse=True)
    points = inverter(part.start, part.features)
    scores = torch.addmm(matcher.level[among], points, matcher.centres[among].T)
    return cross_entropy(scores, labels[: len(part.ids)])


@torch.no_grad()
def _loss(inverter: Inverter, matcher: Matcher, held: Sequence[Lesson]) -> float:
    """Mean over the whole vocabulary."""
    total, count = 0.0, 0
    for lesson in held:
        for at in torch.split(torch.arange(len(lesson.ids)), TOKENS_AT_ONCE):
            part = lesson.only(at)
            scores = torch.addmm(matcher.level, inverter(part.start, part.features), matcher.centres.T)
            total += float(cross_entropy(scores, part.ids, reduction="sum"))
            count += len(at)
    return total / max(count, 1)


@torch.no_grad()
def _ranks(inverter: Inverter, matcher: Matcher, exam: Lesson) -> torch.Tensor:
    """(tokens,) ranks of the right tokens in the whole vocabulary."""
    ranks = []
    for at in torch.split(torch.arange(len(exam.ids)), TOKENS_AT_ONCE):
        part = exam.only(at)
        scores = torch.addmm(matcher.level, inverter(part.start, part.features), matcher.centres.T)
        ranks.append((scores > scores.gather(1, part.ids[:, None])).sum(1) + 1)
    return torch.cat(ranks)
