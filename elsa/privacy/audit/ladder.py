"""The ladder: every attack on h1 that applies to a setting, from the naive to the adaptive."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from elsa.privacy.audit.ciphertext import ciphertext_only
from elsa.privacy.audit.complement import anchored, complement
from elsa.privacy.audit.inverter import Effort, learned
from elsa.privacy.audit.known import known_texts
from elsa.privacy.audit.matching import Prototypes
from elsa.privacy.audit.nearest import nearest
from elsa.privacy.audit.observed import Knowledge, Observed, Recovery
from elsa.privacy.audit.reader import read

KNOWN = (1, 4, 16, 64)
UNDER_ONE_KEY = (16, 64, 256, 800)
READ = 200
"""Texts that A0, A1 and A2 read; more would sharpen their figures, not their aim."""

Attack = Callable[[], Recovery]


def ladder(
    observed: Observed,
    knowledge: Knowledge,
    *,
    known: Sequence[int] = KNOWN,
    under_one_key: Sequence[int] = UNDER_ONE_KEY,
    effort: Effort | None = None,
    progress: Callable[[str], None] = lambda attack: None,
) -> list[Recovery]:
    """Run what applies: A0 and A4 always, A1 to A3 where states are turned.

    A2 leaves out numbers of known texts after which no text is left to read; A3 runs with each number of texts that
    there are, and with all where there are fewer.

    Args:
        observed: texts that were all sent under one key.
        known: numbers of texts that A2 knows.
        under_one_key: numbers of texts that A3 has.
        effort: how long A4 learns.
        progress: hears the name of each attack before it runs.
    """
    found = []
    prototypes = Prototypes.of(knowledge)
    for name, attack in _attacks(observed, knowledge, prototypes, known, under_one_key, effort):
        progress(name)
        found.append(attack())
    return found


def _attacks(
    observed: Observed,
    knowledge: Knowledge,
    prototypes: Prototypes,
    known: Sequence[int],
    under_one_key: Sequence[int],
    effort: Effort | None,
) -> Iterator[tuple[str, Attack]]:
    some, texts = observed.first(READ), len(observed.lengths)
    yield "A0 nearest neighbour", partial(nearest, some, knowledge, prototypes)
    if knowledge.basis is not None:
        rank, width = knowledge.basis.shape
        if rank < width:
            yield "A1 complement", partial(complement, some, knowledge, prototypes)
            yield "A1 self-anchored", partial(anchored, some, knowledge, prototypes)
        for count in (count for count in known if count < len(some.lengths)):
            yield f"A2 known plaintext, {count}", partial(known_texts, some, knowledge, prototypes, count)
        for count in sorted({min(count, texts) for count in under_one_key}):
            yield f"A3 ciphertext only, {count}", partial(ciphertext_only, observed, knowledge, prototypes, count)
    yield "A4 learned inverter", partial(learned, some, knowledge, prototypes, effort)
    yield "A4 learned reader", partial(read, some, knowledge, prototypes, effort)
