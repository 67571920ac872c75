"""Checks before torch: what they look at depends on where a run will be."""

import pytest

from cl.run.checks import check
from cl.run.folder import plain

MISSING = ("dataset=mnist", "dataset.root=/nowhere", "launcher=horovod", "launcher.np=2")


def test_files_are_looked_for_where_the_ranks_will_be(compose_config, tmp_path):
    with pytest.raises(FileNotFoundError, match="no MNIST in /nowhere"):
        check(plain(compose_config(*MISSING)))
    hosts = tmp_path / "hosts"
    check(plain(compose_config(*MISSING, "launcher.hosts=one:1")))
    check(plain(compose_config(*MISSING, f"launcher.hostfile={hosts}")))
    with pytest.raises(ValueError, match="buffer.capacity"):  # which is wrong everywhere
        check(plain(compose_config(*MISSING, "launcher.hosts=one:1", "buffer.capacity=0")))


def test_the_memory_is_checked_where_it_is_used(compose_config):
    check(plain(compose_config("strategy=finetune", "buffer.capacity=0")))
    with pytest.raises(ValueError, match="buffer.capacity must be"):
        check(plain(compose_config("strategy=er", "buffer.capacity=0")))


def test_a_user_s_own_class_is_left_to_its_import(compose_config):
    config = plain(compose_config())
    config["strategy"]["_target_"] = "somewhere.Else"
    check(config)
