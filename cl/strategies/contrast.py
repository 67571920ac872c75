"""The supervised contrastive loss (Khosla et al. 2020, Supervised Contrastive Learning)."""

import torch
import torch.nn.functional as F


def supervised_contrast(z: torch.Tensor, y: torch.Tensor, temperature: float) -> torch.Tensor:
    """The mean over samples i of -1/|P(i)| sum over p in P(i) of log exp(z_i.z_p / T) / sum over a != i of
    exp(z_i.z_a / T), for vectors [n, D], which are made of length 1, and labels [n]; P(i): the others with i's label.

    Eq. 2. Every label must be there twice.
    """
    with torch.autocast(z.device.type, enabled=False):
        z = F.normalize(z)
        similarity = z @ z.T / temperature
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    log_shares = similarity - similarity.masked_fill(itself, float("-inf")).logsumexp(1, keepdim=True)
    positive = (y[:, None] == y) & ~itself
    return -((log_shares * positive).sum(1) / positive.sum(1)).mean()
