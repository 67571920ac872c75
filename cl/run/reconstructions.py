"""Pictures of what was to be computed and what a network computes, one test sample of each task."""

from pathlib import Path

import torch

from cl.data.rows import Rows
from cl.networks.modes import evaluating
from cl.reporting import plots
from cl.run.evaluator import Evaluator

MOST_TASKS = 10  # rows of the picture


def draw(folder: Path, model: torch.nn.Module, evaluator: Evaluator, title: str, formats: list) -> None:
    """reconstructions.*: a row for each task, for each target the true and the computed picture on one scale."""
    if not formats:
        return
    tasks = range(min(MOST_TASKS, len(evaluator.tasks)))
    names = evaluator.objective.targets
    figure, axes = plots.new_figure(1.3 * (1 + 2 * len(names)), 0.8 + 1.25 * len(tasks), 1 + 2 * len(names), len(tasks))
    for row, task in zip(axes, tasks):
        sample = evaluator.tasks.testing(task, evaluator.device).part(slice(1)).loaded()
        with evaluating(model):
            outputs = model(evaluator.transform.test(sample.x))
        _draw_row(row, sample, outputs[0].cpu(), names)
        row[0].set_ylabel(f"task {task + 1}")
    headings = ["input", *(f"{name}\n{which}" for name in names for which in ("true", "computed"))]
    for pair, heading in zip(axes[0], headings):
        pair.set_title(heading)
    figure.suptitle(title, fontsize=10)
    plots.save(figure, folder / "reconstructions", formats)


def _draw_row(row, sample: Rows, output: torch.Tensor, names: tuple[str, ...]) -> None:
    for axes in row:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    row[0].imshow(sample.x[0, 0].float().cpu().log1p().numpy(), cmap="gray")  # the centre outshines the rest
    for number, name in enumerate(names):
        true = sample[name][0, 0].cpu()
        scale = {"vmin": true.min().item(), "vmax": true.max().item(), "cmap": "viridis"}
        row[1 + 2 * number].imshow(true.numpy(), **scale)
        row[2 + 2 * number].imshow(output[number].numpy(), **scale)
