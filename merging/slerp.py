"""Spherical interpolation of two models (Shoemake 1985, Animating Rotation with Quaternion Curves)."""

import torch

from merging.fusion import Models, VectorFusion, weighted_mean

PARALLEL = 1e-6  # radians, below which the arc is the straight line


class Slerp(VectorFusion):
    """sin((1-t) a)/sin(a) theta_1 + sin(t a)/sin(a) theta_2, a the angle between them, t the weight of the second."""

    def merge(self, models: Models) -> torch.Tensor:
        if len(models.states) != 2:
            raise ValueError(f"fusion=slerp merges two models, got {len(models.states)}")
        first, second = models.vectors()
        t = models.weights[1]
        cosine = first @ second / (first.norm() * second.norm()).clamp(min=torch.finfo(first.dtype).tiny)
        angle = torch.acos(cosine.clamp(-1, 1))
        if angle < PARALLEL or torch.pi - angle < PARALLEL:
            return weighted_mean([first, second], models.weights)
        return (torch.sin((1 - t) * angle) * first + torch.sin(t * angle) * second) / torch.sin(angle)
