"""What a client of a run that clusters does besides: it evaluates both ways, and answers as the whole model does."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from split_harness import LABELS, WIDTH, edge_server, first_adapter, rows, spec_of, whole_segment
from test_client_rounds import RUN, Link, loop_at, serve_rounds

from elsa.cluster.fingerprint import projection
from elsa.data.batches import sequential
from elsa.data.probes import probes_of, probes_sha256
from elsa.errors import StaleRoundError
from elsa.model.weights import Checkpoint
from elsa.train.probing import probe_batches
from elsa.train.whole import evaluate_whole
from elsa.v1 import fleet_pb2
from services.client.site import SiteData
from services.edge.parts import Standing
from services.rpc.adapters import Pulled

SENTENCES = [" ".join(f"w{(3 * n + k * (n + 1)) % 40}" for k in range(2 + n % 5)) for n in range(12)]
BFLOAT16 = 0.02
"""What the way of a probe to the edge and back may change: states are of the order of 1."""
CLUSTERING = {
    "method": "spectral",
    "dimensions": 8,
    "warmup_steps": 3,
    "probes": {"count": 12, "repeated": 3, "sentences": SENTENCES},
}


class Cloud(Link):
    """The cloud as a client's rounds see it: asks probes and takes fingerprints too."""

    def __init__(self, spec, refusal=None):
        super().__init__()
        self.uploads = []
        known = probes_of(spec.clustering.probes)
        self.asked = [*known, *known[:3]]

        def ask(request, timeout):
            if refusal:
                raise refusal
            return fleet_pb2.GetProbesResponse(probes=self.asked, sha256=probes_sha256(known))

        self.fleet = SimpleNamespace(
            GetProbes=ask, UploadFingerprint=lambda request, timeout: self.uploads.append(request)
        )


@pytest.fixture
def data():
    return SiteData(train=rows(20, 1), heldout=rows(6, 2), report="")


def run_alone(spec, data, link, start):
    """All rounds of one client at one edge; what each edge round made."""
    stop = threading.Event()
    with edge_server() as edge:
        run = edge.open_run(spec, start, ["ann"])
        loop, channel = loop_at(spec, data, edge.address, link, stop)
        worker = threading.Thread(target=loop.run)
        worker.start()
        closed = serve_rounds(run, edge, spec)
        worker.join(30)
        assert not worker.is_alive()
        channel.close()
    return closed


def unsplit_answers(spec, adapter, texts):
    """The whole model's state of [CLS] after its last block, and its probabilities, for each text."""
    whole = whole_segment(spec, dict(adapter))
    whole.train(False)
    states, said = [], []
    with torch.no_grad():
        for batch in probe_batches(Checkpoint.open(spec.model.source), texts, spec.model.max_tokens, 1):
            given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
            out = whole.model(**given, output_hidden_states=True)
            states.append(out.hidden_states[-1][0, 0])
            said.append(out.logits[0].softmax(-1))
    return torch.stack(states).numpy(), torch.stack(said).numpy()


def matrix(message):
    return np.frombuffer(message.data, "<f4").reshape(message.shape)


def test_a_fingerprint_in_a_round_is_the_unsplit_model_s_after_that_round(tiny_bert, data):
    spec = spec_of(tiny_bert, clustering={**CLUSTERING, "every": 2}, training={"rounds": 4, "edge_rounds": 2})
    link = Cloud(spec)
    closed = run_alone(spec, data, link, first_adapter(spec))
    (upload,) = link.uploads
    assert (upload.run_id, upload.client_id, upload.version) == (RUN, "ann", 2)
    states, said = unsplit_answers(spec, closed[3].parts[0].adapter, link.asked)
    projected = states @ projection(WIDTH, 8, [spec.seed])
    np.testing.assert_allclose(matrix(upload.embeddings), projected, atol=BFLOAT16)
    np.testing.assert_allclose(matrix(upload.probabilities), said, atol=BFLOAT16)
    assert (
        np.abs(
            projected
            - unsplit_answers(spec, closed[2].parts[0].adapter, link.asked)[0] @ projection(WIDTH, 8, [spec.seed])
        ).max()
        > 3 * BFLOAT16
    ), "a round that changes nothing proves nothing"


def test_answering_probes_does_not_change_what_is_trained(tiny_bert, data):
    asked = spec_of(tiny_bert, clustering={**CLUSTERING, "every": 1})
    plain = spec_of(tiny_bert, clustering=CLUSTERING)
    link = Cloud(asked)
    made = [run_alone(spec, data, link, first_adapter(spec))[-1].parts[0].adapter for spec in (asked, plain)]
    assert len(link.uploads) == 1
    for name in made[0]:
        np.testing.assert_array_equal(made[0][name], made[1][name])


def test_a_run_that_does_not_cluster_after_all_goes_on_without(tiny_bert, data):
    spec = spec_of(tiny_bert, clustering={**CLUSTERING, "every": 1})
    link = Cloud(
        spec, refusal=StaleRoundError("run tiny-1 does not cluster its clients; go on without a fingerprint")
    )
    assert len(run_alone(spec, data, link, first_adapter(spec))) == 4
    assert not link.uploads and len(link.evaluations) == 3


def test_a_version_is_evaluated_both_ways_as_whole_models_are(tiny_bert, data):
    spec = spec_of(tiny_bert, training={"rounds": 1})
    start, own, link = first_adapter(spec), first_adapter(spec, seed=9), Link()
    with edge_server() as edge:
        run = edge.open_run(spec, start, ["ann"])
        run.rounds.admit(["ann"], {"ann": Standing(cluster=3)})
        edge.worker.run(lambda: run.rounds.open(1, 0, start, of_clusters={3: own, 1: start}))
        loop, channel = loop_at(spec, data, edge.address, link, threading.Event())
        assert loop.run((1, 0))
        channel.close()
    (request,) = link.evaluations
    for evaluation, tensors, cluster in (
        (request.evaluation, start, None),
        (request.cluster_evaluation, own, 3),
    ):
        want = evaluate_whole(whole_segment(spec, dict(tensors)), sequential(data.heldout, 8), task=spec.model.task)
        assert (evaluation.version, evaluation.rows, evaluation.accuracy) == (1, 6, want.correct / want.count)
        assert evaluation.loss == pytest.approx(want.loss / want.count, abs=1e-5)
        assert (evaluation.cluster if evaluation.HasField("cluster") else None) == cluster
    assert abs(request.evaluation.loss - request.cluster_evaluation.loss) > 1e-3


def test_a_warm_up_of_no_steps_answers_as_the_unsplit_model_it_starts_from(tiny_bert, data):
    spec = spec_of(tiny_bert, clustering={**CLUSTERING, "warmup_steps": 0})
    start, texts = first_adapter(spec), SENTENCES
    with edge_server() as edge:
        edge.open_run(spec, start, ["ann"])
        loop, channel = loop_at(spec, data, edge.address, Link(), threading.Event())
        pulled = Pulled(version=0, data=edge.runs.get(RUN).rounds.wait_for("ann", 0, 0, 1).data)
        made = loop._trainer().warm_up(pulled, texts)
        channel.close()
    states, said = unsplit_answers(spec, start, texts)
    np.testing.assert_allclose(made.embeddings.numpy(), states, atol=BFLOAT16)
    assert made.probabilities.shape == (12, len(LABELS))
    np.testing.assert_allclose(made.probabilities.numpy(), said, atol=BFLOAT16)


def test_a_probe_asked_twice_is_answered_alike_whatever_codecs_the_run_has(tiny_bert, data):
    lossy = dict.fromkeys(("h1", "h2", "dh2", "dh1"), "subspace(ratio=2) | int4")
    spec = spec_of(tiny_bert, clustering={**CLUSTERING, "every": 1}, codecs=lossy)
    link = Cloud(spec)
    closed = run_alone(spec, data, link, first_adapter(spec))
    (upload,) = link.uploads
    embeddings = matrix(upload.embeddings)
    np.testing.assert_allclose(embeddings[12:], embeddings[:3], atol=1e-5)
    states, _ = unsplit_answers(spec, closed[1].parts[0].adapter, link.asked)
    np.testing.assert_allclose(embeddings, states @ projection(WIDTH, 8, [spec.seed]), atol=BFLOAT16)


def test_what_was_evaluated_is_told_though_the_cluster_s_adapter_is_gone(tiny_bert, data):
    spec, link = spec_of(tiny_bert, training={"rounds": 1}), Link()
    start = first_adapter(spec)
    with edge_server() as edge:
        run = edge.open_run(spec, start, ["ann"])
        run.rounds.admit(["ann"], {"ann": Standing(cluster=3)})
        edge.worker.run(lambda: run.rounds.open(1, 0, start, of_clusters={3: start}))
        loop, channel = loop_at(spec, data, edge.address, link, threading.Event())
        real = loop._trainer().evaluate

        def evaluate(pulled, cluster=None):
            made = real(pulled, cluster)
            edge.worker.run(lambda: run.rounds.open(1, 0, start))  # the cluster's is not served any more
            return made

        loop._trainer().evaluate = evaluate
        assert loop.run((1, 0))
        channel.close()
    (request,) = link.evaluations
    assert request.evaluation.version == 1 and not request.HasField("cluster_evaluation")
