"""A1: what a turn within a subspace leaves as it is, and how that gives the turn away.

SS-OP turns the `rank` top directions of public text; all others pass unchanged, and V is public. Where they name most
tokens, the named tokens are known pairs for what was turned: the protection anchors its own undoing.
"""

from elsa.privacy.audit.matching import Prototypes
from elsa.privacy.audit.nearest import read, scored
from elsa.privacy.audit.observed import Knowledge, Observed, Recovery
from elsa.privacy.audit.procrustes import Estimate, self_anchored, turned_basis


def complement(observed: Observed, knowledge: Knowledge, prototypes: Prototypes) -> Recovery:
    """A1: match on the complement of V alone, as A0 does on all. One key or many makes no difference.

    The attacker knows what A0's does, and V. It costs what A0 costs. Raises InputError where nothing is turned.
    """
    nothing = Estimate.nothing(turned_basis(knowledge))
    found = read(observed, knowledge, prototypes, nothing.unturned(observed.states), nothing.seen)
    return scored("A1 complement", observed, knowledge, prototypes, found)


def anchored(observed: Observed, knowledge: Knowledge, prototypes: Prototypes) -> Recovery:
    """A1: match on the complement, estimate the turn from confident matches, undo it, match in full, and again.

    The attacker knows what that of `complement` does; the texts must be under one key. It costs some times what A0
    costs. Raises InputError where nothing is turned.
    """
    nothing = Estimate.nothing(turned_basis(knowledge))
    found = self_anchored(observed, knowledge, prototypes, nothing)
    return scored("A1 self-anchored", observed, knowledge, prototypes, found, f"{len(observed.lengths)} texts")
