"""The optimizer that both sides of the cut use.

AdamW treats every element alone, so bottom, trunk and top stepped apart equal the whole model stepped at once.
"""

from collections.abc import Iterable

import torch

from elsa.spec import OptimizerSpec


def adamw(parameters: Iterable[torch.nn.Parameter], spec: OptimizerSpec) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101) with the settings of a run."""
    return torch.optim.AdamW(
        parameters,
        lr=spec.learning_rate,
        betas=spec.betas,
        eps=spec.epsilon,
        weight_decay=spec.weight_decay,
    )
