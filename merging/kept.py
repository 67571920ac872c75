"""What a merge has to keep of the tasks' data until the next one: samples, or statistics in place of them."""


class Kept:
    """The samples that one merge has asked for, by task, and the bytes of statistics that persist in place of some.

    The samples of a task are always the first ones of one random order, so what several requests need together is the
    largest of them. Images alone are kept without label and task.
    """

    def __init__(self) -> None:
        self.labelled: dict[int, int] = {}
        self.images: dict[int, int] = {}
        self.statistics = 0

    def ask(self, task: int, count: int, labelled: bool) -> None:
        """Note a request for `count` samples of a task, or for their images alone."""
        asked = self.labelled if labelled else self.images
        asked[task] = max(asked.get(task, 0), count)

    def replace(self, statistics: int) -> None:
        """Statistics of so many bytes persist in place of all samples that were asked for so far."""
        self.labelled, self.images, self.statistics = {}, {}, statistics

    def sample_bytes(self, row: int, pixels: int) -> int:
        """Bytes of the samples, with `row` for a whole one and `pixels` for its image alone."""
        whole = sum(self.labelled.values())
        alone = sum(max(0, count - self.labelled.get(task, 0)) for task, count in self.images.items())
        return whole * row + alone * pixels
