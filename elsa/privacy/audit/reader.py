"""A4 once more, by a network that reads whole texts: what a state leaves open, place and neighbours may settle.

The same network taught without any states is the floor: what lengths and places alone give away. A protection that
leaves no more than that hides all that it can hide.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from elsa.privacy.audit.inverter import Effort
from elsa.privacy.audit.lessons import Lesson
from elsa.privacy.audit.matching import Matcher, Prototypes, recovery_of
from elsa.privacy.audit.observed import Knowledge, Observed, Recovery
from elsa.privacy.audit.procrustes import complement_of
from elsa.train.packing import mask_of, unpack

HIDDEN, HEADS, LAYERS = 192, 4, 2
PLACES = 128  # told apart; those beyond count as the last
DROPOUT = 0.1
BATCH = 16  # texts
RATE = 1e-3
LONGER = 3  # times the epochs of the inverter, which starts from more
PATIENCE = 3  # epochs without a better loss on held-out public text
MOST_TOKENS = 30_000  # of public text
See = Callable[[Observed], Lesson]


class Reader(nn.Module):
    """A small transformer over the tokens of a text, to a score for each candidate token.

    Args:
        inputs: features of a token; 0 for the floor, which sees only how long a text is.
        shown: (tokens,) numbers of the tokens of public text: those that it may name, as often as they come.
        matcher: whose scores it starts from, which know how often they come; None for the floor.
    """

    def __init__(self, inputs: int, shown: torch.Tensor, matcher: Matcher | None) -> None:
        super().__init__()
        self.candidates, counts = torch.unique(shown, return_counts=True)
        self._matcher = matcher
        self.enter = nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, HIDDEN)) if inputs else None
        self.place, self.from_end = nn.Embedding(PLACES, HIDDEN), nn.Embedding(PLACES, HIDDEN)
        layer = nn.TransformerEncoderLayer(HIDDEN, HEADS, 2 * HIDDEN, DROPOUT, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.leave = nn.Linear(HIDDEN, len(self.candidates))
        nn.init.zeros_(self.leave.weight)
        self.leave.bias.data = (counts / len(shown)).log() if matcher is None else torch.zeros(len(counts))
        self.heed = nn.Parameter(torch.ones(()))

    def forward(self, page: "Page") -> torch.Tensor:
        """(tokens that count, candidates): logarithms of probabilities up to a constant a token."""
        hidden = self.place(page.places.clamp(max=PLACES - 1)) + self.from_end(page.from_end.clamp(max=PLACES - 1))
        if self.enter is not None:
            hidden = hidden + self.enter(page.lesson.features)
        mask = mask_of(page.lengths)
        hidden = self.layers(unpack(hidden, page.lengths), src_key_padding_mask=mask == 0)
        scores: torch.Tensor = self.leave(hidden[mask.bool()][page.counted])
        if self._matcher is not None:
            start = page.lesson.start[page.counted]
            centres, level = self._matcher.centres[self.candidates], self._matcher.level[self.candidates]
            scores = scores + self.heed * torch.addmm(level, start, centres.T)
        return scores


@dataclass(frozen=True, kw_only=True, eq=False)
class Page:
    """Texts as a reader is shown them, all their tokens one after another."""

    lesson: Lesson
    places: torch.Tensor  # (tokens,)
    from_end: torch.Tensor  # (tokens,)
    lengths: tuple[int, ...]
    counted: torch.Tensor  # (tokens,) bool: those that are not special

    @classmethod
    def of(cls, texts: Observed, knowledge: Knowledge, see: See) -> "Page":
        """What `see` sees of `texts`."""
        return cls(
            lesson=see(texts),
            places=texts.places,
            from_end=texts.from_end,
            lengths=texts.lengths,
            counted=knowledge.content(texts),
        )

    def parts(self, order: Sequence[int]) -> Iterator["Page"]:
        """Its texts in `order`, `BATCH` at a time."""
        numbers = torch.split(torch.arange(len(self.places)), list(self.lengths))
        for chosen in torch.split(torch.tensor(order), BATCH):
            at = torch.cat([numbers[text] for text in chosen.tolist()])
            yield Page(
                lesson=self.lesson.only(at),
                places=self.places[at],
                from_end=self.from_end[at],
                lengths=tuple(self.lengths[text] for text in chosen.tolist()),
                counted=self.counted[at],
            )


def read(observed: Observed, knowledge: Knowledge, prototypes: Prototypes, effort: Effort | None = None) -> Recovery:
    """A4: teach a reader on public text under the protection, with fresh noise and another key each time it is read.

    It names only tokens that the public text has. About two minutes on one core at width 384.
    """
    basis = knowledge.basis
    matcher = Matcher(prototypes, seen=None if basis is None else complement_of(basis))

    def see(texts: Observed) -> Lesson:
        return Lesson.of(texts, knowledge, prototypes, matcher)

    return _read("A4 learned reader", observed, knowledge, see, matcher, effort or Effort())


def guess(observed: Observed, knowledge: Knowledge, effort: Effort | None = None) -> Recovery:
    """The floor: the same reader, shown no states."""

    def see(texts: Observed) -> Lesson:
        nothing = torch.zeros(len(texts.ids), 0)
        return Lesson(start=nothing, features=nothing, ids=texts.ids)

    return _read("floor lengths alone", observed, knowledge, see, None, effort or Effort())


def _read(
    attack: str, observed: Observed, knowledge: Knowledge, see: See, matcher: Matcher | None, effort: Effort
) -> Recovery:
    with torch.random.fork_rng():
        torch.manual_seed(effort.seed)
        taught, held = _texts(knowledge)
        exam = Page.of(observed, knowledge, see)
        reader = Reader(exam.lesson.features.shape[1], taught.ids[knowledge.content(taught)], matcher)
        most = LONGER * effort.epochs
        pages = (Page.of(_applied(taught, knowledge, key), knowledge, see) for key in range(1, most + 1))
        epochs = _teach(reader, pages, Page.of(_applied(held, knowledge, 0), knowledge, see))
    return recovery_of(attack, _ranks(reader, exam), f"{epochs} epochs of {len(taught.lengths)} texts")


def _applied(texts: Observed, knowledge: Knowledge, key: int) -> Observed:
    return replace(texts, states=knowledge.applied(texts.states, key))


def _texts(knowledge: Knowledge) -> tuple[Observed, Observed]:
    """Public texts to learn from, and an eighth to stop by."""
    public = knowledge.public
    texts = Observed(states=public.text_states, ids=public.text_ids, lengths=public.text_lengths)
    room = torch.tensor(public.text_lengths).cumsum(0) <= MOST_TOKENS
    texts = texts.first(max(int(room.sum()), 2))
    apart = max(len(texts.lengths) // 8, 1)
    return texts.first(max(len(texts.lengths) - apart, 1)), texts.after(max(len(texts.lengths) - apart, 0))


def _teach(reader: Reader, pages: Iterable[Page], held: Page) -> int:
    """Teach `reader` a page an epoch until held-out text gains no more, and leave it at its best; the epochs run."""
    optimizer = torch.optim.AdamW(reader.parameters(), lr=RATE)
    best, kept, epochs, waited = _loss(reader, held), _copy(reader), 0, 0
    for page in pages:
        reader.train()
        for part in page.parts(torch.randperm(len(page.lengths)).tolist()):
            optimizer.zero_grad()
            _part_loss(reader, part).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        loss, epochs, waited = _loss(reader, held), epochs + 1, waited + 1
        if loss < best:
            best, kept, waited = loss, _copy(reader), 0
        if waited == PATIENCE:
            break
    reader.load_state_dict(kept)
    return epochs


def _copy(reader: Reader) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in reader.state_dict().items()}


def _part_loss(reader: Reader, part: Page) -> torch.Tensor:
    """Mean cross-entropy over the tokens that count and that it can name; zero for none."""
    at, known = _numbers(reader, part)
    scores = reader(part)[known]
    return cross_entropy(scores, at[known]) if len(scores) else scores.sum()


@torch.no_grad()
def _loss(reader: Reader, page: Page) -> float:
    reader.eval()
    parts = list(page.parts(range(len(page.lengths))))
    return sum(float(_part_loss(reader, part)) * len(part.lengths) for part in parts) / len(page.lengths)


@torch.no_grad()
def _ranks(reader: Reader, exam: Page) -> torch.Tensor:
    """(tokens that count,) ranks of the right tokens; one that it cannot name comes after all that it can."""
    reader.eval()
    ranks = []
    for part in exam.parts(range(len(exam.lengths))):
        scores, (at, known) = reader(part), _numbers(reader, part)
        right = (scores > scores.gather(1, at[:, None])).sum(1) + 1
        ranks.append(torch.where(known, right, len(reader.candidates) + 1))
    return torch.cat(ranks)


def _numbers(reader: Reader, part: Page) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each token that counts, its number among the candidates, and whether it is one."""
    ids = part.lesson.ids[part.counted]
    at = torch.searchsorted(reader.candidates, ids).clamp(max=len(reader.candidates) - 1)
    return at, reader.candidates[at] == ids
