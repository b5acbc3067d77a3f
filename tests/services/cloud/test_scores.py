"""A version's score: the metric that the specification names, of the adapter that it names, lower is better."""

import pytest

from elsa.spec import EarlyStoppingSpec
from services.cloud.round_records import ClusterScore, Evaluation
from services.cloud.stopping import score_of


def evaluation(client, rows, loss, accuracy, own=None):
    score = None if own is None else ClusterScore(cluster=0, loss=own[0], accuracy=own[1])
    return Evaluation(run_id="r", version=1, client_id=client, rows=rows, loss=loss, accuracy=accuracy, own=score)


SAID = [evaluation("ann", 30, 1.0, 0.5, own=(0.2, 0.9)), evaluation("bob", 10, 2.0, 0.25)]


@pytest.mark.parametrize(
    ("metric", "adapter", "expected"),
    [
        ("loss", "run", (30 * 1.0 + 10 * 2.0) / 40),
        ("accuracy", "run", -(30 * 0.5 + 10 * 0.25) / 40),
        ("loss", "cluster", (30 * 0.2 + 10 * 2.0) / 40),
        ("accuracy", "cluster", -(30 * 0.9 + 10 * 0.25) / 40),
    ],
)
def test_a_score_is_of_the_adapter_that_is_named_where_a_client_has_evaluated_it(metric, adapter, expected):
    spec = EarlyStoppingSpec(metric=metric, adapter=adapter)
    assert score_of(spec, SAID) == pytest.approx(expected, rel=1e-12)
