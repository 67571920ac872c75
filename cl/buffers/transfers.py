"""Copies between a GPU and host memory, made while the GPU computes; on other devices, copies that are waited for."""

import torch


class Transfers:
    """The copies of one replay memory in host memory, for a network on `device`."""

    def __init__(self, device: torch.device):
        self.device = device
        gpu = device.type == "cuda"
        self._arriving = torch.cuda.Stream(device) if gpu else None
        self._fetching = torch.cuda.Stream(device) if gpu else None

    def to_device(self, columns: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Copies on the device, carried beside what it still has to compute of the step before."""
        if self._arriving is None:
            return {name: column.to(self.device) for name, column in columns.items()}
        current = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._arriving):
            # From pinned memory of torch, which knows when the copy is over and the memory free.
            columns = {name: column.pin_memory().to(self.device, non_blocking=True) for name, column in columns.items()}
        current.wait_stream(self._arriving)
        for column in columns.values():
            column.record_stream(current)
        return columns

    def fetch(self, columns: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Copies in pinned memory, made beside what the GPU is given to compute after this call; first `wait`.

        On other devices the columns as they are.
        """
        if self._fetching is None:
            return columns
        self._fetching.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._fetching):
            return {name: self._begin(column.detach()) for name, column in columns.items()}

    def _begin(self, column: torch.Tensor) -> torch.Tensor:
        if column.device.type != "cuda":
            return column
        column.record_stream(self._fetching)  # its memory is not given away before it is copied
        return torch.empty_like(column, device="cpu", pin_memory=True).copy_(column, non_blocking=True)

    def wait(self) -> None:
        """Return when everything that was fetched is there."""
        if self._fetching is not None:
            self._fetching.synchronize()
