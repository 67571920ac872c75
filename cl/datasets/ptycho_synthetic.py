"""Ptychography without an instrument: diffraction patterns of random objects under a fixed probe."""

import numpy as np

from cl import seeding
from cl.datasets.ptycho import Reconstructed

PROBE_WIDTH = 0.3  # standard deviation of the probe's amplitude, in sides of a patch
PROBE_CURVATURE = 4.0  # radians of its phase at the middle of a side
# Ranges of the materials, wide enough that a network which learns the next scans forgets the earlier ones. With phases
# of one sign only it forgets less.
PHASE = (-np.pi / 2, np.pi / 2)  # radians, behind the thickest place of an object
ABSORPTION = (0.1, 1.5)  # the amplitude there is exp(-absorption)
LENGTHS = (0.25, 0.5)  # smoothness of objects, in sides; shorter ones cannot be learned from a few hundred samples


class PtychoSynthetic(Reconstructed):
    """`patterns` random objects for each of `scans` scans, with their diffraction patterns in the far field.

    An object is made of one material of smoothly varying thickness, which absorbs the wave and shifts its phase. A
    pattern does not depend on a global phase, but determines amplitude and phase of such an object. Each scan has its
    material, smoothness and direction of stretching, so a network has to learn every scan. `photons`: expected number
    of photons per pattern, with Poisson noise; None: no noise. `seed`: seed of the data, independent of the seed of the
    run.
    """

    def __init__(
        self, scans: int, patterns: int, size: int, photons: float | None, seed: int, held_out: float,
        validation: float, mean: list | None, std: list | None, augment: list,
    ):  # fmt: skip
        super().__init__(scans, size, held_out, validation, mean, std, augment)
        if patterns < 2:
            raise ValueError(f"dataset.patterns must be at least 2, got {patterns}")
        if photons is not None and photons <= 0:
            raise ValueError(f"dataset.photons must be above 0 or null, got {photons}")
        self.patterns, self.photons, self.seed = patterns, photons, seed

    def check(self) -> None:
        """Nothing can be missing: the samples are computed."""

    def scan(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        random = seeding.generator(self.seed, "scan", place)
        size = self.sample_shape[-1]
        length = np.exp(random.uniform(*np.log(LENGTHS)))
        stretch, angle = random.uniform(1, 3), random.uniform(0, np.pi)
        phase, absorption = random.uniform(*PHASE), random.uniform(*ABSORPTION)
        fields = smooth_fields(random, (self.patterns,), size, length, stretch, angle)
        thickness = 1 / (1 + np.exp(-2 * fields))  # in (0, 1)
        patches = np.exp((1j * phase - absorption) * thickness)
        magnitudes = diffraction(patches, probe(size))
        if self.photons is not None:
            intensity = np.square(magnitudes)
            scale = self.photons / intensity.sum((1, 2), keepdims=True)
            magnitudes = np.sqrt(random.poisson(intensity * scale) / scale)
        return magnitudes, patches


def probe(size: int) -> np.ndarray:
    """The probe [size, size], complex: a Gaussian beam slightly out of focus."""
    place = (np.arange(size) + 0.5) / size - 0.5
    square = place[:, None] ** 2 + place[None, :] ** 2
    return np.exp(-square / (2 * PROBE_WIDTH**2) + 1j * PROBE_CURVATURE * 4 * square)


def diffraction(patches: np.ndarray, beam: np.ndarray) -> np.ndarray:
    """Far-field magnitudes |F(patch * beam)| of patches [N, H, W] under a beam [H, W], with frequency 0 in the middle.

    The transform preserves energy (Parseval). Far-field model of Cherukara et al. 2020.
    """
    waves = np.fft.fftshift(np.fft.fft2(patches * beam, norm="ortho"), axes=(-2, -1))
    return np.abs(waves)


def smooth_fields(
    random: np.random.Generator, shape: tuple[int, ...], size: int, length: float, stretch: float, angle: float
) -> np.ndarray:
    """Gaussian random fields [*shape, size, size] of mean 0 and variance 1, `stretch` times as smooth along `angle`.

    White noise times a Gaussian in Fourier space, so the fields are periodic. `length` in sides, `angle` in radians.
    """
    frequency = np.fft.fftfreq(size) * size
    across, down = np.meshgrid(frequency, frequency)
    along = (across * np.cos(angle) + down * np.sin(angle)) * stretch
    beside = -across * np.sin(angle) + down * np.cos(angle)
    weights = np.exp(-((np.pi * length) ** 2) * (along**2 + beside**2) / 2)
    weights[0, 0] = 0
    noise = np.fft.fft2(random.standard_normal((*shape, size, size)))
    scale = size / np.sqrt(np.square(weights).sum())
    return np.fft.ifft2(noise * weights * scale).real
