"""Python's search for garbage around imports: off within, as before afterwards, and frozen only in a command."""

import gc

import pytest

from cl import imports


@pytest.fixture(autouse=True)
def as_before():
    enabled, frozen = gc.isenabled(), gc.get_freeze_count()
    yield
    gc.unfreeze()
    if frozen:
        gc.freeze()
    (gc.enable if enabled else gc.disable)()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_search_is_off_within_and_as_it_was_afterwards(enabled):
    (gc.enable if enabled else gc.disable)()
    with pytest.raises(ImportError), imports.many():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled() == enabled


@pytest.mark.parametrize("command", [False, True])
def test_only_what_a_command_has_imported_first_is_never_looked_at_again(command, monkeypatch):
    found = []

    class Ring:
        def __init__(self, name):
            self.name, self.itself = name, self

        def __del__(self):
            found.append(self.name)

    monkeypatch.setattr(imports, "_for_good", False)
    if command:
        imports.stay()
    with imports.many():
        Ring("before training")
    Ring("a run")
    with imports.many():
        Ring("between runs")
    gc.collect()
    assert sorted(found) == ["a run"] + ([] if command else ["before training"]) + ["between runs"]
