"""A5, from gradients: labels out of dL/dh2, which the client sends, and tokens out of dL/dh1, which the edge makes.

Labels never travel, but the gradient of a row's loss is another for each label. Three attackers: one that only groups
rows by their gradient; one that knows some labels; and one that completes the model: the edge has its own blocks and
is pushed the client's tensors to be averaged, so it can compute the gradient of every label and see which one fits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cosine_similarity, normalize

from elsa.errors import InputError
from elsa.model.segment import Segment
from elsa.privacy.audit.matching import recovery_of
from elsa.privacy.audit.observed import Recovery
from elsa.privacy.audit.public import Frame
from elsa.privacy.audit.utility import Exchange
from elsa.spec import Split
from elsa.train.loss import loss_sum
from elsa.train.packing import mask_of, pack, unpack
from elsa.train.rehearsal import Sides

KNOWN_A_LABEL = 3
"""Labels that the second attacker knows, of each label: one row in a hundred or so of a client's."""
RIDGE = 1.0
ROWS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class LabelRecovery:
    """How many labels one attack recovered, against always saying the commonest."""

    attack: str
    accuracy: float
    majority: float
    rows: int


def label_recoveries(
    seen: Sequence[Exchange],
    truth: torch.Tensor,
    top: Segment,
    split: Split,
    *,
    basis: torch.Tensor | None = None,
) -> list[LabelRecovery]:
    """All three attacks on the labels of the rows in `seen`.

    Args:
        truth: (rows,) labels, for scoring, and for the few that the second attacker knows.
        top: a segment that holds top blocks and head as the edge knows them: those that the round began with.
        basis: V of SS-OP, (rank, width), where the edge decodes turned gradients: it is left out of comparisons.

    Raises:
        InputError: no rows, or labels for another number of rows.
    """
    rows = sum(len(exchange.lengths) for exchange in seen)
    if not rows or rows != len(truth):
        raise InputError(f"{rows} rows of gradients and {len(truth)} labels; give as many of both, at least one")
    features = torch.cat([row_directions(exchange) for exchange in seen])
    classes = int(truth.max()) + 1
    majority = float(torch.bincount(truth).max()) / rows
    matched = torch.cat([matched_labels(exchange, top, split, basis) for exchange in seen])
    known = few_known(truth)
    rest = torch.ones(rows, dtype=torch.bool)
    rest[known] = False
    guessed = told_labels(features, truth, known)
    scores = {
        "A5 labels: groups of gradients": (clustered_accuracy(features, truth, classes), rows),
        f"A5 labels: {KNOWN_A_LABEL} known of each": (_accuracy(guessed[rest], truth[rest]), int(rest.sum())),
        "A5 labels: the model completed": (_accuracy(matched, truth), rows),
    }
    return [LabelRecovery(attack=name, accuracy=a, majority=majority, rows=n) for name, (a, n) in scores.items()]


def row_directions(exchange: Exchange) -> torch.Tensor:
    """(rows, width): the direction of dL/dh2 at the token of each row where it is largest, where the head reads."""
    parts = torch.split(exchange.dh2, list(exchange.lengths))
    loudest = torch.stack([part[part.norm(dim=1).argmax()] for part in parts])
    return normalize(loudest, dim=1)


def clustered_accuracy(features: torch.Tensor, truth: torch.Tensor, classes: int) -> float:
    """Accuracy of groups of `features` (rows, width), named in the way that fits `truth` best.

    Without labels an attacker cannot name the groups; that it can tell the rows apart is what counts.
    """
    groups = min(classes, len(features))
    found = KMeans(groups, n_init=10, random_state=0).fit_predict(features.double().numpy())
    table = torch.zeros(groups, classes)
    table.index_put_((torch.from_numpy(found).long(), truth), torch.ones(len(truth)), accumulate=True)
    named = linear_sum_assignment(table.numpy(), maximize=True)
    return float(table[named].sum()) / len(truth)


def few_known(truth: torch.Tensor) -> list[int]:
    """The first rows of each label, `KNOWN_A_LABEL` of each."""
    labels = truth.tolist()
    return sorted(row for row, label in enumerate(labels) if labels[:row].count(label) < KNOWN_A_LABEL)


def told_labels(features: torch.Tensor, truth: torch.Tensor, known: Sequence[int]) -> torch.Tensor:
    """(rows,) labels by logistic regression on `features` of the rows `known` alone."""
    if len(set(truth[list(known)].tolist())) < 2:
        return truth[known[0]].expand(len(truth))
    model = LogisticRegression(C=100.0, max_iter=500).fit(features[list(known)].numpy(), truth[list(known)].numpy())
    return torch.from_numpy(model.predict(features.numpy())).long()


def matched_labels(exchange: Exchange, top: Segment, split: Split, basis: torch.Tensor | None = None) -> torch.Tensor:
    """(rows,) the label of each row whose gradient, computed through `top`, points most as the one that came."""
    mask, lengths = mask_of(exchange.lengths), list(exchange.lengths)
    leaf = unpack(_outside(exchange.h2, basis), lengths).requires_grad_()
    top.train(False)
    logits = top.top(leaf, mask, mask, split=split)
    came = _rows_of(_outside(exchange.dh2, basis), lengths)
    fits = []
    for label in range(logits.shape[1]):
        loss = loss_sum(logits, torch.full((len(lengths),), label), "classification")
        (gradient,) = torch.autograd.grad(loss, leaf, retain_graph=True)
        would = _rows_of(_outside(gradient[mask.bool()], basis), lengths)
        fits.append(
            torch.stack([cosine_similarity(one, other, dim=0) for one, other in zip(would, came, strict=True)])
        )
    return torch.stack(fits, 1).argmax(1)


def token_recovery(
    seen: Sequence[Exchange],
    ids: torch.Tensor,
    taught: tuple[torch.Tensor, torch.Tensor],
    embeddings: torch.Tensor,
    frame: Frame,
) -> Recovery:
    """Tokens out of dL/dh1: a linear map from its direction to the tokens' embeddings, fitted on the attacker's own.

    Args:
        seen: the client's rows.
        ids: (tokens,) of `seen`, for scoring.
        taught: gradients (tokens, width) of public text with labels of the attacker's choice, through the same model,
            and their tokens (tokens,).
        embeddings: (vocabulary, anything) of the tokens.
        frame: special tokens of each row, which do not count.

    Raises:
        InputError: the edge made no dL/dh1.
    """
    parts = [exchange.dh1 for exchange in seen if exchange.dh1 is not None]
    if not parts:
        raise InputError("no dL/dh1 was made: the bottom is not trained")
    targets = normalize(embeddings.detach().float(), dim=1)
    middle = targets[taught[1]].mean(0)
    inputs = normalize(taught[0], dim=1)
    gram = inputs.T @ inputs + RIDGE * torch.eye(inputs.shape[1])
    slope = torch.linalg.solve(gram, inputs.T @ (targets[taught[1]] - middle))
    counted = _content(seen, frame)
    guess = normalize(normalize(torch.cat(parts), dim=1)[counted] @ slope + middle, dim=1)
    ranks = []
    for part, right in zip(torch.split(guess, 512), torch.split(ids[counted], 512), strict=True):
        scores = part @ targets.T
        ranks.append((scores > scores.gather(1, right[:, None])).sum(1) + 1)
    return recovery_of("A5 tokens from dL/dh1", torch.cat(ranks))


def public_gradients(
    sides: Sides, rows: Sequence[Sequence[int]], labels: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """dL/dh1 (tokens, width) of public rows of token numbers under random labels, and their tokens (tokens,).

    Args:
        sides: both sides of the model, as the attacker knows them.
        labels: how many there are to draw from.
    """
    draw = torch.Generator().manual_seed(seed)
    gradients, tokens = [], []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = [list(row) for row in rows[start : start + ROWS_AT_ONCE]]
        lengths = [len(row) for row in part]
        mask = mask_of(lengths)
        ids = torch.tensor([row + [0] * (mask.shape[1] - len(row)) for row in part])
        with torch.no_grad():
            hidden = sides.client.bottom(ids, mask, split=sides.split)
        leaf = hidden.requires_grad_()
        logits = sides.client.top(sides.edge.trunk(leaf, mask, sides.split), ids, mask, split=sides.split)
        wanted = torch.randint(labels, (len(part),), generator=draw)
        (gradient,) = torch.autograd.grad(loss_sum(logits, wanted, "classification"), leaf)
        gradients.append(pack(gradient, lengths))
        tokens.append(ids[mask.bool()])
    return torch.cat(gradients), torch.cat(tokens)


def _content(seen: Sequence[Exchange], frame: Frame) -> torch.Tensor:
    """(tokens,) bool: tokens that are not special."""
    marks = []
    for length in (length for exchange in seen for length in exchange.lengths):
        places = torch.arange(length)
        marks.append((places >= len(frame.begin)) & (places < length - len(frame.end)))
    return torch.cat(marks)


def _outside(values: torch.Tensor, basis: torch.Tensor | None) -> torch.Tensor:
    """`values` (tokens, width) without what a turn may have moved."""
    return values if basis is None else values - values @ basis.T @ basis


def _rows_of(values: torch.Tensor, lengths: Sequence[int]) -> list[torch.Tensor]:
    """Each row's values, flat."""
    return [part.flatten() for part in torch.split(values, list(lengths))]


def _accuracy(guess: torch.Tensor, truth: torch.Tensor) -> float:
    return float((guess == truth).float().mean())
