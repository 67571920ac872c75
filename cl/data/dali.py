"""Pictures decoded by NVIDIA DALI: on the GPU where there is one, else by its threads on the CPU. An option."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from cl.data.decoding import Decoder
from cl.data.streaming import Request
from cl.values import Count


class Dali:
    """In place of worker processes, DALI's pipeline: reads files, decodes, and scales the centre square.

    Its pixels differ by parts of a level from those of other loaders. `threads`: of the CPU for each rank; `prefetch`:
    batches ahead. Raises ValueError where DALI is not installed.
    """

    def __init__(self, threads: Count, prefetch: Count, device: torch.device, local_ranks: int = 1):
        try:
            import nvidia.dali  # noqa: F401
        except ImportError as error:
            raise ValueError(
                f"loader=dali needs NVIDIA DALI, and it cannot be imported ({error}): install it for your CUDA, for "
                "example pip install nvidia-dali-cuda120, or choose loader=workers"
            ) from error
        self.threads, self.prefetch, self.device = threads, prefetch, device

    def stream(self, requests: Iterable[Request]) -> Iterator[torch.Tensor]:
        """The batches [B, C, H, W] uint8 of the requests, in order, on the device."""
        requests = list(requests)
        if not requests:
            return
        decoder = requests[0][0]
        pipeline = self._pipeline(decoder, [paths for _, paths in requests])
        for number in range(len(requests)):
            try:
                (batch,) = pipeline.run()
            except RuntimeError as error:  # of this batch or of one that it decodes ahead, in words of its own
                for path in (path for _, paths in requests[number : number + self.prefetch + 1] for path in paths):
                    decoder(path)
                raise ValueError(f"DALI cannot decode a picture: {' '.join(str(error).split())}") from error
            # Copied: DALI writes the batch after next into the same memory.
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
        """Pipelines end with their streams."""
