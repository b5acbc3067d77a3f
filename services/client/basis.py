"""The public basis of SS-OP at this client's cut, made by the one client that makes the run's key."""

import torch

from elsa.data.probes import public_probes
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.privacy.ssop import public_basis
from elsa.spec import RunSpec, Split
from elsa.train.probing import probe_activations


def basis_at_cut(spec: RunSpec, segment: Segment, checkpoint: Checkpoint, split: Split, rank: int) -> torch.Tensor:
    """(rank, width) float32, from the public probes through the base model's bottom. Raises as `public_basis`.

    Args:
        segment: with an adapter at the values that all clients begin from.
    """
    probes = probe_activations(segment, checkpoint, split, public_probes(), spec.model.max_tokens)
    return public_basis(probes, rank)
