"""Large fleets are compared by landmarks, and what is decided is what all pairs would have decided."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from elsa.cluster.fingerprint import gaussians
from elsa.spec import RunSpec
from services.cloud import comparing
from services.cloud.clustering import grouped
from services.cloud.fingerprints import order_of
from services.cloud.records import Fingerprint

GROUPS, CLIENTS = 4, 240
NAMES = [f"client-{n:03}" for n in range(CLIENTS)]


def spec_of(**parts):
    return RunSpec.model_validate(
        {"data": {"labels": ["a", "b", "c"]}, "clustering": {"clusters": GROUPS, "dimensions": 8, **parts}}
    )


def fingerprints(spec):
    """Answers of planted groups, the first client's copied by the last."""
    draw = np.random.default_rng(0)
    common, shifts = draw.normal(size=(64, 8)), draw.normal(size=(GROUPS, 64, 8))
    all_answers = [common + 0.6 * shifts[n % GROUPS] + 0.1 * draw.normal(size=(64, 8)) for n in range(CLIENTS)]
    all_answers[-1] = all_answers[0]
    made = []
    for n, (name, answers) in enumerate(zip(NAMES, all_answers, strict=True)):
        logits = 3 * answers[:, :3]
        said = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        asked = order_of(spec, name)
        made.append(
            Fingerprint(
                run_id="a",
                client_id=name,
                arrived_unix_s=float(n),
                asked=tuple(asked),
                dimensions=8,
                embeddings=answers[asked].astype("<f4").tobytes(),
                labels=3,
                probabilities=said[asked].astype("<f4").tobytes(),
            )
        )
    return made


def groups_of(spec, most, monkeypatch, landmarks=60):
    monkeypatch.setattr(comparing, "MOST_COMPARED", most)
    monkeypatch.setattr(comparing, "LANDMARKS", landmarks)
    return grouped(spec, fingerprints(spec), CLIENTS, GROUPS)


def test_landmarks_find_the_clusters_and_the_copies_that_all_pairs_find(monkeypatch):
    whole, some = (groups_of(spec_of(), most, monkeypatch) for most in (CLIENTS, CLIENTS - 1))
    truth = [n % GROUPS for n in range(CLIENTS - 1)]
    for found in (whole, some):
        assert adjusted_rand_score(truth, [found.labels[name] for name in NAMES[:-1]]) == 1.0
        assert found.parts[NAMES[-1]].originality < 0.1 < 0.9 < found.parts[NAMES[0]].originality
        assert found.medoids and set(found.trust) == set(NAMES)
    trust = np.array([[found.trust[name] for name in NAMES] for found in (whole, some)])
    assert np.abs(trust[0] - trust[1]).max() < 0.1
    for name in NAMES[:8]:
        own = some.labels[name]
        assert some.distance[name][own] < 0.7 < np.delete(some.distance[name], own).min()
    assert not any("drawn at random" in note for note in whole.notes)
    assert "compared by 60 of them, drawn at random, since there are more than 239" in some.notes


def test_it_is_said_where_agglomerative_clusters_cannot_be_made(monkeypatch):
    spec = spec_of(method="agglomerative")
    assert "agglomerative clusters need all pairs, these are spectral" in groups_of(spec, 100, monkeypatch).notes
    assert not [note for note in groups_of(spec, CLIENTS, monkeypatch).notes if "spectral" in note]


@pytest.mark.parametrize("most", [100, 1])
def test_columns_are_those_of_all_pairs(monkeypatch, most):
    made = gaussians(np.random.default_rng(3).normal(size=(100, 32, 4)))
    monkeypatch.setattr(comparing, "MOST_COMPARED", most)
    rows = np.array([7, 3, 50])
    wanted = comparing.AllPairs(made).to(rows)
    np.testing.assert_allclose(comparing.compared(made, 0).to(rows), wanted, rtol=1e-6, atol=1e-9)
