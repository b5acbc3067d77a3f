"""A2, known plaintext: the edge knows some of the texts sent under a key.

It may have written them itself, or guess them: a greeting, a template, a boilerplate line. Their states before the
turn follow from the public bottom.
"""

from elsa.privacy.audit.matching import Prototypes
from elsa.privacy.audit.nearest import expected_states, scored
from elsa.privacy.audit.observed import Knowledge, Observed, Recovery
from elsa.privacy.audit.procrustes import Pairs, procrustes, self_anchored, turned_basis


def known_texts(observed: Observed, knowledge: Knowledge, prototypes: Prototypes, count: int) -> Recovery:
    """A2: the turn from the first `count` texts, whose tokens are known; the others are read, and alone counted.

    Fewer known tokens than directions fix the turn on what they span; confident matches there, and in the complement
    of V where it has one, are pairs for the next estimate. It costs some times what A0 costs. Raises InputError where
    nothing is turned.
    """
    basis = turned_basis(knowledge)
    known, others = observed.first(count), observed.after(count)
    plain = expected_states(known, knowledge, prototypes, known.ids)
    pairs = Pairs(plain=plain @ basis.T, turned=known.states @ basis.T)
    found = self_anchored(others, knowledge, prototypes, procrustes(basis, pairs), pairs)
    note = f"{count} known texts, {len(known.ids)} tokens"
    return scored(f"A2 known plaintext, {count}", others, knowledge, prototypes, found, note)
