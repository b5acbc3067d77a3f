"""What the trained adapter is held against on the test rows: the commonest label, and a head on the frozen model."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel

from elsa.data.examples import Labelled
from elsa.model.weights import Checkpoint
from services.cli.predictor import Predictor, in_batches, quiet

FROZEN_HEAD = "logistic regression (scikit-learn, to convergence) on the frozen base model's mean-pooled last states"


@dataclass(frozen=True, kw_only=True)
class Yardsticks:
    """Shares of right answers on the same test rows."""

    adapter: float
    """The exported adapter, loaded by plain PEFT."""
    majority: float
    """Always the commonest label of the test rows."""
    frozen_head: float
    """See FROZEN_HEAD; fitted on as many rows as the run's steps used, each at most once."""
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
    """Measure all three on `test`; the head is fitted on at most `rows` of `train`, drawn by `seed`."""
    truth = np.array([example.label for example in test])
    said = predictor.probabilities([example.text for example in test], workers).argmax(axis=1)
    chosen = [train[index] for index in np.random.default_rng(seed).permutation(len(train))[:rows]]
    checkpoint = Checkpoint.open(predictor.about.config.base)

    def features(examples: Sequence[Labelled]) -> npt.NDArray[np.float32]:
        return _features(checkpoint, [each.text for each in examples], predictor.about.max_tokens, workers)

    head = LogisticRegression(max_iter=2000).fit(features(chosen), [example.label for example in chosen])
    frozen = head.predict(features(test))
    return Yardsticks(
        adapter=float((said == truth).mean()),
        majority=Counter(truth.tolist()).most_common(1)[0][1] / len(truth),
        frozen_head=float((frozen == truth).mean()),
        frozen_head_rows=len(chosen),
        test_rows=len(truth),
    )


def _features(checkpoint: Checkpoint, texts: Sequence[str], max_tokens: int, workers: int) -> npt.NDArray[np.float32]:
    """(texts, width) mean of the last hidden states of a text's real tokens."""
    tokenizer = checkpoint.tokenizer()
    with quiet():
        model = AutoModel.from_pretrained(checkpoint.folder, local_files_only=True).eval()

    def pooled(batch: Any) -> npt.NDArray[np.float32]:
        mask = batch["attention_mask"].unsqueeze(-1)
        states = model(**batch).last_hidden_state  # (batch, tokens, width)
        mean: npt.NDArray[np.float32] = ((states * mask).sum(1) / mask.sum(1)).float().numpy()
        return mean

    return in_batches(tokenizer, texts, max_tokens, pooled, workers=workers)
