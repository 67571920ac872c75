"""The memory of draws: used again once no tensor of a draw is left, and not before; given back exactly once."""

import types

import pytest
import torch

from cl.buffers import leases
from cl.buffers.base import Field
from cl.buffers.native import NativeBuffer
from cl.distributed.comm import Comm

FIELDS = [
    Field("x", (2, 3), torch.float32),
    Field("y", (), torch.int64),
    Field("half", (3,), torch.bfloat16),
]
N = 4


@pytest.fixture
def released(monkeypatch):
    """The leases that were given back, as a list that grows."""
    real, given_back = leases.lib, []

    def release(lease):
        given_back.append(int(leases.ffi.cast("uintptr_t", lease)))
        real.rb_release(lease)

    monkeypatch.setattr(leases, "lib", types.SimpleNamespace(rb_release=release))
    return given_back


def filled(records: int = 20) -> NativeBuffer:
    buffer = NativeBuffer(20, "reservoir", "uniform", FIELDS, 10, 0, torch.device("cpu"), Comm())
    y = torch.arange(records) % 10
    x = y[:, None, None].expand(-1, 2, 3).float().contiguous()
    buffer.add({"x": x, "y": y, "half": x[:, 0].to(torch.bfloat16)})
    return buffer


def draw(buffer: NativeBuffer, n: int = N):
    buffer.request(n)
    return buffer.receive()


def test_memory_is_used_again_and_its_tensors_are_not_made_anew():
    buffer = filled()
    places = {draw(buffer)["x"].data_ptr() for _ in range(50)}
    assert len(places) == 1
    held = [draw(buffer) for _ in range(3)]
    assert len({records["x"].data_ptr() for records in held}) == 3
    assert len(buffer._leases._known) == 3  # 53 draws


def test_a_draw_of_another_length_in_the_same_memory_has_its_own_shapes():
    buffer = filled()
    for n in (4, 2, 4, 0, 3):
        records = draw(buffer, n)
        assert [tuple(records[name].shape) for name in ("x", "y", "half")] == [(n, 2, 3), (n,), (n, 3)]
        assert records.weight.tolist() == [1.0] * n and len(set(records.ids.tolist())) == n
        assert torch.equal(records["half"].float(), records["x"][:, 0])


WAYS_TO_KEEP = {
    "column": lambda records: records["x"],
    "view": lambda records: records["x"][1:, 0].t(),
    "numpy": lambda records: records["x"].numpy(),
    "dlpack": lambda records: torch.from_dlpack(records["x"]),
    "records": lambda records: records,
    "part": lambda records: records.part(slice(1, 3)),
    "weight": lambda records: records.weight,
    "ids": lambda records: records.ids,
    "graph": lambda records: (torch.ones(3, requires_grad=True) * records["x"]).sum(),
}


@pytest.mark.parametrize("way", WAYS_TO_KEEP)
def test_memory_stays_lent_while_anything_made_of_the_draw_is_left(way, released):
    buffer = filled()
    kept = WAYS_TO_KEEP[way](draw(buffer))
    place = int(leases.ffi.cast("uintptr_t", buffer._leases._lent[0].lease))
    for _ in range(5):
        draw(buffer)
    assert place not in released
    del kept
    draw(buffer)
    assert released.count(place) == 1


def test_gradients_are_those_of_the_draw_whatever_is_drawn_until_then():
    buffer, weight = filled(), torch.ones(3, requires_grad=True)
    records = draw(buffer)
    expected = records["x"].sum((0, 1)).clone()
    loss = (weight * records["x"]).sum()
    del records
    for _ in range(5):
        draw(buffer)
    loss.backward()
    assert torch.equal(weight.grad, expected)


def test_names_and_weights_can_be_asked_for_when_the_columns_were_replaced():
    buffer = filled()
    records = draw(buffer)
    expected = records.ids.tolist()
    records.columns = {"y": records["y"].clone()}
    for _ in range(5):
        draw(buffer)
    assert records.ids.tolist() == expected


@pytest.mark.parametrize("end", ["close", "abandon", "nothing"])
def test_what_outlives_the_buffer_goes_back_once_when_its_last_tensor_is_gone(end, released):
    buffer = filled()
    first, second = draw(buffer), draw(buffer)
    columns, expected = [first["x"], second["x"]], [first["x"].clone(), second["x"].clone()]
    del first, second
    if end != "nothing":
        getattr(buffer, end)()
    del buffer
    assert not released
    assert all(map(torch.equal, columns, expected))
    columns.pop()
    assert len(released) == 1
    columns.pop()
    assert len(set(released)) == len(released) == 2


def test_tensors_are_not_kept_for_ever_where_the_sizes_of_draws_change(monkeypatch):
    monkeypatch.setattr(leases, "MOST_BLOCKS", 3)
    buffer = filled()
    for n in range(1, 12):
        assert len(draw(buffer, n)) == n
        assert len(buffer._leases._known) <= 3
