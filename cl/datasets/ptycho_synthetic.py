"""Ptychography without an instrument: diffraction patterns of random objects under a fixed probe."""

import numpy as np

from cl import seeding
from cl.datasets.ptycho import Reconstructed

PROBE_WIDTH = 0.3  # standard deviation of the probe's amplitude, in sides of a patch
PROBE_CURVATURE = 4.0  # radians of its phase at the middle of a side
# Of the materials: wide enough that what is right for one is wrong for another, and a network that goes on to other
# scans forgets. With phases of one sign only it forgets less.
PHASE = (-np.pi / 2, np.pi / 2)  # radians behind the thickest place of an object: the least and the most of any scan
ABSORPTION = (0.1, 1.5)  # the amplitude there is exp(-absorption)
LENGTHS = (0.25, 0.5)  # over which objects are smooth, in sides; of shorter ones hundreds of samples teach too little


class PtychoSynthetic(Reconstructed):
    """`patterns` random objects for each of `scans` scans, their diffraction in the far field.

    An object is of one material, of smoothly varying thickness: where it is thick it absorbs and delays or advances the
    wave, so that the diffraction, which does not change with the phase of everything together, determines both. Each
    scan has a material of its own, a length over which the thickness is smooth and a direction in which it is
    stretched, so that a network has to learn every one of them. `photons`: of each pattern, from which its counts are
    drawn (Poisson); None for patterns without noise. `seed` is that of the data: it is the same for every seed of a
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
    """[size, size] complex: a Gaussian beam, a little out of focus."""
    place = (np.arange(size) + 0.5) / size - 0.5
    square = place[:, None] ** 2 + place[None, :] ** 2
    return np.exp(-square / (2 * PROBE_WIDTH**2) + 1j * PROBE_CURVATURE * 4 * square)


def diffraction(patches: np.ndarray, beam: np.ndarray) -> np.ndarray:
    """Magnitudes of the far field of patches [N, H, W] under a beam [H, W]: |F(patch beam)|, the centre in the middle.

    The transform keeps the energy (Parseval). Cherukara et al. 2020, far-field model.
    """
    waves = np.fft.fftshift(np.fft.fft2(patches * beam, norm="ortho"), axes=(-2, -1))
    return np.abs(waves)


def smooth_fields(
    random: np.random.Generator, shape: tuple[int, ...], size: int, length: float, stretch: float, angle: float
) -> np.ndarray:
    """[*shape, size, size] Gaussian fields of mean 0 and variance 1, `stretch` times as smooth along `angle`.

    White noise times a Gaussian in Fourier space; `length` in sides. They go round at the borders.
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
