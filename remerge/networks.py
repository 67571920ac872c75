"""The networks that a finished run or merge has saved, built from its configuration."""

import copy
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from torch import nn

from cl.build import build
from cl.configuration.trust import check_trust
from cl.networks import weights
from cl.networks.lora import folded
from cl.networks.pretrained import HUB
from cl.run.checkpoint import task_files
from cl.run.network import build_network, input_shape


class Networks(Sequence):
    """One network for each file task_NN.pt, in evaluation mode on the CPU, read when it is asked for.

    Raises ValueError for a run without such files, and for networks that the run's configuration does not describe.
    """

    def __init__(self, folder: Path, results: dict, trust: Sequence[str]):
        """`trust`: modules of the caller's whose code the results may name; their own list of these is not heard."""
        self.config = results["config"] | {"trust": list(trust)}
        self.pretrained, self.files = results.get("pretrained"), list(task_files(folder).values())
        if not self.files:
            raise ValueError(f"{folder} has no files task_NN.pt: its networks are not there (any more)")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place):
        if isinstance(place, slice):
            return [self[number] for number in range(len(self))[place]]
        file = self.files[place]
        content = weights.load(file)
        network, state = self._built(with_weights="lora" in content), content["model"]
        if "lora" in content:
            state = folded(state, content["lora"], network.state_dict(), str(file))
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(
                f"{file} holds no network of backbone={self.config['backbone']['name']}, as that of an ensemble or "
                f"of aligned networks of other widths: torch.load({str(file)!r})['model'] has its tensors"
            ) from error
        return network.eval()

    def _built(self, with_weights: bool) -> nn.Module:
        """`with_weights`: with those that the run began with, as adapters need them."""
        config = copy.deepcopy(self.config)
        check_trust(config)
        dataset, scenario = build(config["dataset"], "dataset"), build(config["scenario"], "scenario")
        scenario.plan(dataset)
        if with_weights:
            return build_network(SimpleNamespace(config=config, dataset=dataset, scenario=scenario), adapters=False)
        backbone = config["backbone"]
        # The saved weights take the place of pretrained ones; a repository or folder of these also says how to build.
        word = str(backbone.get("pretrained"))
        if "pretrained" in backbone and not word.startswith(HUB) and not (Path(word) / "config.json").is_file():
            backbone["pretrained"] = None
        network = build(
            backbone, "backbone", sample_shape=input_shape(dataset, backbone), num_outputs=scenario.num_outputs
        )
        if self.pretrained is not None and self.pretrained["mean"] is not None:
            network.input_statistics = self.pretrained["mean"], self.pretrained["std"]
        return network
