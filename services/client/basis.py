"""The public basis of SS-OP at this client's cut, made by the one client that makes the run's key."""

import torch

from elsa.data.probes import public_probes
from elsa.model.segment import Segment
from elsa.model.weights import Checkpoint
from elsa.privacy.ssop import public_basis
from elsa.spec import RunSpec
from elsa.train.probing import probe_activations


def basis_at_cut(spec: RunSpec, checkpoint: Checkpoint, client: str, rank: int) -> torch.Tensor:
    """(rank, width) float32, from the public probes through the base model's bottom. Raises as `public_basis`."""
    task, labels = spec.model.task, len(spec.data.labels)
    split = spec.split_of(client, checkpoint.config(task, labels).num_hidden_layers)
    segment = Segment.client(checkpoint, split, task=task, num_labels=labels, seed=spec.seed)
    probes = probe_activations(segment, checkpoint, split, public_probes(), spec.model.max_tokens)
    return public_basis(probes, rank)
