"""What the trained adapter is held against on the test rows: the commonest label, and a head on the frozen model."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel

from elsa.data.examples import Labelled
from elsa.model.weights import Checkpoint
from services.cli.predictor import Predictor, in_batches, quiet

Features = npt.NDArray[np.float32]

FROZEN_HEAD = (
    "logistic regression (scikit-learn, to convergence) on the frozen base model's own pooled output, which is what "
    "the fine-tuned head is given too, or on the mean of the last states where a model has no pooler"
)


@dataclass(frozen=True, kw_only=True)
class Yardsticks:
    """Shares of right answers on the same test rows."""

    adapter: float
    """The exported adapter, loaded by plain PEFT."""
    majority: float
    """Always the commonest label of the test rows."""
    frozen_head: float
    """See FROZEN_HEAD; fitted on as many rows as the run's steps used, each at most once, of all clients together."""
    frozen_head_rows: int
    test_rows: int


def measure(
    predictor: Predictor,
    train: Sequence[Labelled],
    test: Sequence[Labelled],
    *,
    rows: int,
    seed: int,
    workers: int = 1,
) -> Yardsticks:
    """Measure all on `test`; the head is fitted on at most `rows` of `train`, drawn by `seed`."""
    truth = _labels(test)
    said = predictor.probabilities([example.text for example in test], workers).argmax(axis=1)
    chosen = [train[index] for index in np.random.default_rng(seed).permutation(len(train))[:rows]]
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    head.fit(_pooled(predictor, chosen, workers), _labels(chosen))
    frozen = head.predict(_pooled(predictor, test, workers))
    return Yardsticks(
        adapter=float((said == truth).mean()),
        majority=Counter(truth.tolist()).most_common(1)[0][1] / len(truth),
        frozen_head=float((frozen == truth).mean()),
        frozen_head_rows=len(chosen),
        test_rows=len(truth),
    )


def _labels(examples: Sequence[Labelled]) -> npt.NDArray[np.int64]:
    return np.array([example.label for example in examples])


def _pooled(predictor: Predictor, examples: Sequence[Labelled], workers: int) -> Features:
    """(texts, width): what the frozen base model gives its head."""
    checkpoint = Checkpoint.open(predictor.about.config.base)
    with quiet():
        model = AutoModel.from_pretrained(checkpoint.folder, local_files_only=True).eval()

    def pooled(batch: Any) -> Features:
        out = model(**batch)
        given = getattr(out, "pooler_output", None)
        if given is None:
            mask = batch["attention_mask"].unsqueeze(-1)
            given = (out.last_hidden_state * mask).sum(1) / mask.sum(1)
        array: Features = given.float().numpy()
        return array

    texts = [example.text for example in examples]
    return in_batches(checkpoint.tokenizer(), texts, predictor.about.max_tokens, pooled, workers=workers)
