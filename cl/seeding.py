"""Random streams: one counter-based generator per purpose, all from one seed.

Streams keyed by (seed, purpose, numbers) are independent of each other and of how often any other one was used; so
switching replay on does not change the order of the new samples, and a resumed run only has to restore the streams
that live over a whole run. Seeds like `seed + rank` were rejected: their streams are correlated.
"""

import hashlib

import numpy as np


def generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """Philox generator of the stream that `seed`, `purpose` and further numbers (rank, task, epoch) name."""
    return np.random.Generator(np.random.Philox(_sequence(seed, purpose, numbers)))


def derive(seed: int, purpose: str, *numbers: int) -> int:
    """A 63-bit seed of the same kind, for generators that are not numpy's (torch, continuum)."""
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

    A call of numpy per training step costs more than the numbers: between steps its code has left the caches.
    """

    BLOCK = 4096

    def __init__(self, seed: int, purpose: str, *numbers: int):
        self._stream = generator(seed, purpose, *numbers)
        self._left: list[float] = []

    def take(self, n: int) -> list[float]:
        """The next `n` numbers of the stream, however they were grouped before."""
        while len(self._left) < n:
            self._left = self._stream.random(self.BLOCK)[::-1].tolist() + self._left
        taken = self._left[: -n - 1 : -1]
        del self._left[len(self._left) - n :]
        return taken

    def state(self) -> dict:
        """For a checkpoint; `restore` takes it back."""
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
