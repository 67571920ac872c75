"""Random streams: one counter-based generator per purpose, all derived from one seed.

Streams with different (seed, purpose, numbers) are independent, no matter how often each was used. So switching replay
on does not change the order of the new samples, and a resumed run only has to restore the streams that last for a whole
run. Seeds like `seed + rank` were rejected: their streams are correlated.
"""

import hashlib

import numpy as np


def generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """The Philox generator of the stream named by `seed`, `purpose` and `numbers` (rank, task, epoch)."""
    return np.random.Generator(np.random.Philox(_sequence(seed, purpose, numbers)))


def derive(seed: int, purpose: str, *numbers: int) -> int:
    """A 63-bit seed derived in the same way, for generators of torch and continuum."""
    return int(_sequence(seed, purpose, numbers).generate_state(1, np.uint64)[0] >> 1)


def state_of(stream: np.random.Generator) -> dict:
    """A generator's state in plain Python numbers, for checkpoints."""
    return _plain(stream.bit_generator.state)


def restore(stream: np.random.Generator, state: dict) -> None:
    """Set a Philox generator to a state that `state_of` returned."""
    inner = {key: np.array(value, dtype=np.uint64) for key, value in state["state"].items()}
    stream.bit_generator.state = {**state, "state": inner, "buffer": np.array(state["buffer"], dtype=np.uint64)}


class Uniforms:
    """Uniform random numbers in [0, 1) of one stream, drawn in blocks.

    A call of numpy in every training step is slow, because the step in between has evicted its code from the caches.
    """

    BLOCK = 4096

    def __init__(self, seed: int, purpose: str, *numbers: int):
        self._stream = generator(seed, purpose, *numbers)
        self._left: list[float] = []

    def take(self, n: int) -> list[float]:
        """The next `n` numbers of the stream; the numbers do not depend on how they are grouped into calls."""
        while len(self._left) < n:
            self._left = self._stream.random(self.BLOCK)[::-1].tolist() + self._left
        taken = self._left[: -n - 1 : -1]
        del self._left[len(self._left) - n :]
        return taken

    def state(self) -> dict:
        """The state for a checkpoint; `restore` restores it."""
        return {"stream": state_of(self._stream), "left": list(self._left)}

    def restore(self, state: dict) -> None:
        restore(self._stream, state["stream"])
        self._left = list(state["left"])


def _sequence(seed: int, purpose: str, numbers: tuple[int, ...]) -> np.random.SeedSequence:
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    if min(numbers, default=0) < 0:
        raise ValueError(f"the numbers of a random stream must be 0 or more, got {numbers}")
    name = repr((int(seed), purpose, *map(int, numbers))).encode()
    return np.random.SeedSequence(int.from_bytes(hashlib.sha256(name).digest(), "big"))


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
