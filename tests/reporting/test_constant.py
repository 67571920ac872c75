"""Columns that the tasks alone decide are not printed, and those that a terminal has no room for are named.

What the tasks decide is found here by asking random networks.
"""

import csv
import re

import pytest
import torch
from parsed import Tables
from test_report import merged, write

from cl.reporting import groups, metrics, tables
from cl.scenarios.outputs import TaskOutputs

TASKS = [[1] * 4, [2, 2], [3, 1, 1], [1, 3], [5], [1], [2, 1, 2]]


def random_accuracies(sizes: list[int], seed: int, samples: int = 40) -> tuple[float, float]:
    """Average accuracies of a network of random outputs: over all classes, and over those of each task."""
    ends = torch.tensor(sizes).cumsum(0).tolist()
    outputs = TaskOutputs(ends[-1], [range(end - size, end) for end, size in zip(ends, sizes)])
    generator = torch.Generator().manual_seed(seed)
    found = []
    for task, classes in enumerate(outputs.task_outputs):
        labels = torch.randint(classes.start, classes.stop, (samples,), generator=generator)
        logits = torch.randn(samples, ends[-1], generator=generator)
        masked = outputs.mask_others(logits, torch.full((samples,), task))
        found.append([(each.argmax(1) == labels).double().mean().item() for each in (logits, masked)])
    every, known = map(list, zip(*found))
    return metrics.average_accuracy([every], []), metrics.average_accuracy([known], [])


@pytest.mark.parametrize("sizes", TASKS, ids=str)
def test_the_task_aware_accuracy_is_left_out_where_no_network_changes_it_or_it_is_the_accuracy(sizes):
    pairs = [random_accuracies(sizes, seed) for seed in range(5)]
    says_nothing = len({known for _, known in pairs}) == 1 or all(every == known for every, known in pairs)
    assert ("task_average_accuracy" in metrics.constant(sizes, task_aware=False)) == says_nothing


@pytest.mark.parametrize("sizes", TASKS, ids=str)
def test_forward_transfer_is_left_out_where_each_later_task_is_one_class(sizes):
    single = len(sizes) > 1 and all(size == 1 for size in sizes[1:])
    assert ("forward_transfer" in metrics.constant(sizes, task_aware=False)) == single


def test_measures_of_a_task_aware_matrix_that_is_all_ones_say_nothing():
    ones, untrained = [[1.0] * 4] * 4, [1.0] * 4
    values = metrics.measures(metrics.METRICS, [[0.3] * 4] * 4, ones, ones, untrained)
    left_out = metrics.constant([1] * 4, task_aware=True)
    assert left_out == {key for key in values if key != "average_accuracy"}
    assert {key: values[key] for key in ("forgetting", "backward_transfer", "forward_transfer")} == dict.fromkeys(
        ("forgetting", "backward_transfer", "forward_transfer"), 0.0
    )
    assert metrics.constant(None, task_aware=False) == set()  # tasks that share their classes, and errors


MEASURED = {"task_average_accuracy": 1.0, "forward_transfer": -0.1, "task_aware": False}


def test_tables_leave_out_what_the_tasks_decide_and_report_csv_has_it(tmp_path):
    for seed in (0, 1):
        write(tmp_path, seed=seed, task_classes=[1, 1], **MEASURED)
    found = groups.load([tmp_path])
    heading, _ = tables.rows(found)
    assert heading == ["strategy", "seeds", "accuracy %", "forgetting %", "backward %", "train s"]
    for text in (tables.as_text(found), tables.as_markdown(found), tables.as_latex(found), tables.as_html(found)):
        assert "forgetting" in text and "task-aware" not in text and "forward" not in text
        assert "untrained network" not in text  # the formula of forward transfer
    (row,) = csv.DictReader(tables.as_csv(found).splitlines())
    assert float(row["task_average_accuracy_mean"]) == 1 and float(row["forward_transfer_mean"]) == -0.1


@pytest.mark.parametrize("classes", [{"task_classes": [2, 2]}, {"task_classes": None}, {}], ids=str)
def test_numbers_that_happen_to_be_equal_are_printed_and_so_are_those_of_earlier_versions(tmp_path, classes):
    for seed in (0, 1):
        write(tmp_path, seed=seed, **MEASURED, **classes)
    assert {"task-aware %", "forward %"} <= set(tables.rows(groups.load([tmp_path]))[0])


def test_a_column_that_says_something_of_one_row_is_printed(tmp_path):
    write(tmp_path, **MEASURED, task_classes=[1, 1])
    write(tmp_path, "joint", group="g2", **MEASURED, task_classes=[5, 5], scenario="class5")
    assert {"task-aware %", "forward %"} <= set(tables.rows(groups.load([tmp_path]))[0])


def test_the_order_in_which_columns_go_is_of_columns_that_there_are(tmp_path):
    merged(tmp_path, 0)
    known = {column.key for column in tables.columns(groups.load([tmp_path]), everything=True)}
    assert set(tables.FIRST_OUT) <= known and len(set(tables.FIRST_OUT)) == len(tables.FIRST_OUT)


@pytest.mark.parametrize("task_aware", [False, True])
def test_a_narrow_table_names_the_columns_that_are_not_there(tmp_path, task_aware):
    for seed, accuracy in enumerate((0.4, 0.6)):
        measured = MEASURED | {"task_average_accuracy": accuracy, "task_aware": task_aware, "forward_transfer": 0.1}
        write(tmp_path, seed=seed, accuracy=accuracy, task_classes=[2, 2], **measured)
    found = groups.load([tmp_path])
    heading, _ = tables.rows(found)
    for width in range(30, 120):
        lines = tables.as_text(found, width=width).splitlines()
        assert max(map(len, lines)) <= width
        note = " ".join(lines).partition("not shown for want of width: ")[2].partition(";")[0]
        gone = note.split(", ") if note else []
        order = ["forward %", "train s", "backward %", *([] if task_aware else ["task-aware %"]), "forgetting %"]
        assert gone == [name for name in heading if name in order[: len(gone)]]
        assert (len(gone) == 0) == (width >= max(map(len, tables.as_text(found).splitlines()[1:])))
        if width >= 50:  # else headings are broken
            titles = lines[[set(line) for line in lines].index({"-"}) - 1]
            assert re.split(" {2,}", titles) == [name for name in heading if name not in gone]


def test_a_table_in_html_has_the_same_cells_and_its_text_is_escaped(tmp_path):
    write(tmp_path, "<i>a</i> & b"), write(tmp_path, "er", group="g2")
    found = groups.load([tmp_path])
    file = tmp_path / "table.html"
    file.write_text(tables.as_html(found))
    heading, cells = tables.rows(found)
    assert [[text for text, _ in row] for row in Tables(file).tables[0]] == [heading, *cells]
    assert cells[0][0] == "<i>a</i> & b" and "<i>" not in file.read_text()
    assert f"<caption>{tables.caption(found)}</caption>" in file.read_text()
