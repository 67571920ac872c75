"""Optional loader: pictures are decoded by NVIDIA DALI on a GPU, or by its threads on the CPU."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from cl.data.decoding import Decoder
from cl.data.streaming import Request
from cl.values import Count


class Dali:
    """A DALI pipeline that reads files, decodes them and scales the centre square, instead of worker processes.

    Its pixels differ from those of other loaders by less than a grey level in the mean. `threads`: CPU threads per
    rank; `prefetch`: number of batches decoded ahead. Raises ValueError if DALI is not installed.
    """

    def __init__(self, threads: Count, prefetch: Count, device: torch.device, local_ranks: int = 1):
        try:
            import nvidia.dali  # noqa: F401
        except ImportError as error:
            raise ValueError(
                f"loader=dali needs NVIDIA DALI, but it cannot be imported ({error}): install it for your CUDA, for "
                "example pip install nvidia-dali-cuda120, or choose loader=workers"
            ) from error
        self.threads, self.prefetch, self.device = threads, prefetch, device

    def stream(self, requests: Iterable[Request]) -> Iterator[torch.Tensor]:
        """Yield the batches [B, C, H, W] uint8 of the requests in order, on the device."""
        requests = list(requests)
        if not requests:
            return
        decoder = requests[0][0]
        pipeline = self._pipeline(decoder, [paths for _, paths in requests])
        for number in range(len(requests)):
            try:
                (batch,) = pipeline.run()
            except RuntimeError as error:  # from this batch or a prefetched one; our decoder names the damaged file
                for path in (path for _, paths in requests[number : number + self.prefetch + 1] for path in paths):
                    decoder(path)
                raise ValueError(f"DALI cannot decode a picture: {' '.join(str(error).split())}") from error
            # A copy, because DALI writes a later batch into the same memory.
            if self.device.type == "cuda":
                found = torch.from_dlpack(batch.as_tensor()).clone()
            else:
                found = torch.from_numpy(np.array(batch.as_tensor()))
            yield found.permute(0, 3, 1, 2)

    def _pipeline(self, decoder: Decoder, batches: list[list[bytes]]):
        from nvidia.dali import Pipeline, fn, math, types

        def contents() -> Iterator[list[np.ndarray]]:
            for paths in batches:
                yield [np.fromfile(path, dtype=np.uint8) for path in paths]

        on_gpu = self.device.type == "cuda"
        pipeline = Pipeline(
            batch_size=max(map(len, batches)), num_threads=self.threads, prefetch_queue_depth=self.prefetch,
            device_id=(self.device.index or 0) if on_gpu else None,
        )  # fmt: skip
        with pipeline:
            encoded = fn.external_source(source=contents(), batch=True, dtype=types.UINT8, ndim=1)
            colours = types.GRAY if decoder.channels == 1 else types.RGB
            images = fn.decoders.image(encoded, device="mixed" if on_gpu else "cpu", output_type=colours)
            shape = fn.peek_image_shape(encoded)
            height, width = shape[0], shape[1]
            side = math.min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            start, end = (
                fn.cast(fn.stack(*corner), dtype=types.FLOAT) for corner in ((top, left), (top + side, left + side))
            )
            scaled = fn.resize(
                images, size=(decoder.size, decoder.size), roi_start=start, roi_end=end, antialias=True,
                interp_type=types.INTERP_LINEAR,
            )  # fmt: skip
            pipeline.set_outputs(scaled)
        pipeline.build()
        return pipeline

    def close(self) -> None:
        """Nothing to do: each pipeline ends with its stream."""
