"""A hub of two repositories, and a cache, for the tests of pretrained weights."""

import pytest
import torch
from hub import CFG, MODEL, TAG, files_of, fill_cache, random_model
from huggingface_hub import constants

from cl.networks import pretrained


@pytest.fixture(scope="module")
def served():
    """A network with random weights as the hub has it, under the name of timm's weights and under one of a user."""
    network = random_model(MODEL, 1)
    return network.state_dict(), {f"timm/{TAG}": files_of(network, MODEL), "me/mine": files_of(network, MODEL, **CFG)}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty cache, and a hub that cannot be reached."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    pretrained.find.cache_clear()
    yield tmp_path / "home"
    pretrained.find.cache_clear()


@pytest.fixture
def cached(home, served):
    for repository, files in served[1].items():
        fill_cache(home, repository, files)
    return served[0]
