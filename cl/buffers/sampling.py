"""Sampling policies: which of the stored records are replayed. Each has a file sampling_NAME.py."""

from abc import abstractmethod

from cl.buffers.policy import Policy
from cl.seeding import Uniforms


class SamplingPolicy(Policy):
    """Draws from the slots that hold a record, without replacement within a draw."""

    @abstractmethod
    def draw(self, stored: list[int], labels: list[int], n: int, uniforms: Uniforms) -> list[int]:
        """min(n, stored) different slots of `stored`; `labels`: the label in every slot."""

    def weights(self, stored: list[int], labels: list[int], drawn: list[int]) -> list[float]:
        """For each slot drawn, its probability under `uniform` over that under this policy, for a draw of one."""
        return [1.0] * len(drawn)
