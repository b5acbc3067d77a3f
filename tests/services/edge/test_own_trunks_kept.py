"""Whose own tensors an edge keeps: those of its clients, and of nobody who has left."""

import numpy as np

from services.edge.own_trunks import OwnTrunks


def test_tensors_of_who_has_left_are_forgotten_and_others_stay():
    trunks = OwnTrunks(frozenset)
    own = {name: {"a": np.full(2, number, np.float32)} for number, name in enumerate(("ann", "bob"))}
    trunks.resume(own)
    trunks.keep(["ann", "cat"])
    assert trunks.of("ann") is own["ann"]
    assert trunks.of("bob") is None
    assert list(trunks.kept) == ["ann"]
