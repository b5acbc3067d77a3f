"""A fingerprint that would not go into a message is refused at the door."""

import pytest

from elsa.errors import SpecError
from elsa.parsing import parse
from elsa.spec import RunSpec

LABELS = [str(number) for number in range(4000)]


def made(method, labels=("a", "b"), **clustering):
    return parse(RunSpec, {"data": {"labels": labels}, "clustering": {"method": method, **clustering}}, "spec")


def test_one_that_does_not_go_into_a_message_is_refused_where_it_was_asked_for():
    with pytest.raises(SpecError, match="a fingerprint of 1161216 bytes"):
        made("spectral", LABELS)


def test_auto_does_not_cluster_where_fingerprints_are_too_large():
    assert made("auto").groups_clients(2)
    assert not made("auto", LABELS).groups_clients(2)


@pytest.mark.parametrize("clusters", [0, 1001, "edge"])
def test_a_number_of_clusters_out_of_bounds_is_refused(clusters):
    with pytest.raises(SpecError, match=r"clustering\.clusters"):
        made("spectral", clusters=clusters)
