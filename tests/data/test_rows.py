"""Rows: selecting, joining and splitting, and the loss weights that make means add up."""

import pytest
import torch

from cl.buffers.base import Records
from cl.data.rows import Rows


def rows(*numbers: int, loss_weight: float = 1.0) -> Rows:
    y = torch.tensor(numbers)
    x = y.view(-1, 1, 1, 1).to(torch.uint8)
    return Rows({"x": x, "y": y, "task": y % 2, "phase": y.float().view(-1, 1)}, loss_weight)


@pytest.mark.parametrize(
    "which, expected",
    [
        (slice(1, 3), [11, 12]),
        (torch.tensor([3, 0]), [13, 10]),
        (torch.tensor([True, False, False, True]), [10, 13]),
        (slice(0, 0), []),
    ],
)
def test_a_part_has_the_same_rows_of_all_columns(which, expected):
    part = rows(10, 11, 12, 13).part(which)
    assert len(part) == len(expected) and part.loss_weight == 1
    for name in ("x", "y", "phase"):
        assert part[name].flatten().tolist() == expected
    assert part.task.tolist() == [value % 2 for value in expected]
    assert part.x is part["x"] and part.y is part["y"]


def test_joined_rows_come_one_after_the_other():
    both = Rows.cat([rows(1, 2), rows(3)])
    assert both["y"].tolist() == [1, 2, 3] and both["phase"].shape == (3, 1) and both.loss_weight == 1
    assert list(both.columns) == ["x", "y", "task", "phase"]
    assert list(Rows.cat([rows(1), rows(2)], ("y",)).columns) == ["y"]
    alone = rows(1, loss_weight=0.5)
    assert Rows.cat([alone]) is alone


def test_a_mean_over_joined_rows_weighs_as_much_as_its_parts():
    # Two of 4 rows of a step that has 6, and one draw of 2 that is whole: the mean over the step is over 4 + 2.
    new, draw = rows(1, 2, loss_weight=0.5), rows(7, 9)
    together = Rows.cat([new, draw])
    # The step has 2 / 0.5 = 4 new rows and 2 of the draw; together these 4 rows are 4 / 6 of it.
    assert together.loss_weight == 4 / (4 + 2)
    mean = torch.tensor([1.0, 2.0, 7.0, 9.0]).mean()
    assert together.weighted(mean).item() == pytest.approx((1 + 2 + 7 + 9) / 6)


@pytest.mark.parametrize("length, count", [(6, 3), (7, 3), (5, 5), (2, 3)])
@pytest.mark.parametrize("loss_weight", [1.0, 0.25])
def test_means_over_the_parts_of_a_split_add_up_to_the_mean(length, count, loss_weight):
    whole = rows(*range(10, 10 + length), loss_weight=loss_weight)
    parts = whole.split(count)
    assert len(parts) == count and all(len(part) for part in parts)
    assert torch.cat([part["y"] for part in parts if part.loss_weight]).tolist() == whole["y"].tolist()
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert sum(part.loss_weight for part in parts) == pytest.approx(loss_weight)
    total = sum(part.weighted(part["phase"].mean()) for part in parts)
    assert total.item() == pytest.approx(loss_weight * whole["phase"].mean().item(), rel=1e-6)


def test_parts_of_a_draw_keep_weights_and_ids_and_ask_for_them_late():
    asked = []

    def weight():
        asked.append(1)
        return torch.tensor([0.1, 0.2, 0.3])

    draw = Records(rows(1, 2, 3).columns, weight, torch.tensor([7, 8, 9]))
    first, second = draw.split(2)
    assert not asked and isinstance(first, Records)
    assert second.ids.tolist() == [8, 9] and second["y"].tolist() == [2, 3]
    assert second.weight.tolist() == pytest.approx([0.2, 0.3]) and first.weight.tolist() == pytest.approx([0.1])
    assert asked == [1]


def test_rows_go_to_a_device_with_their_weight():
    moved = rows(1, 2, loss_weight=0.5).to(torch.device("meta"))
    assert {column.device.type for column in moved.columns.values()} == {"meta"} and moved.loss_weight == 0.5
