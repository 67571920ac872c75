"""The first line of a command, before torch is imported: what is being done, and where its files will be."""

from pathlib import Path

from cl.distributed.ranks import world_size
from cl.reporting import screen


def run(config: dict, folder: Path) -> None:
    """Say which run begins: `er (200 samples) on class5 of digits, seed 0, network mlp -> FOLDER`."""
    capacity = str(config["buffer"]["capacity"]) if config["strategy"].get("memory") else ""
    memory = f" ({capacity} samples)" if capacity.isdigit() else f" ({capacity})" if capacity else ""
    say(f"{config['strategy']['name']}{memory} {on_data(config)}", folder)


def on_data(config: dict, seeds: str | None = None) -> str:
    """What it is done on, with which seed (or `seeds`), network and ranks."""
    said = [
        f"on {config['scenario']['name']} of {config['dataset']['name']}", seeds or f"seed {config['seed']}",
        f"network {config['backbone']['name']}",
    ]  # fmt: skip
    ranks = world_size(config)
    return ", ".join([*said, *([f"{ranks} ranks"] if ranks > 1 else [])])


def say(what: str, folder: Path) -> None:
    """Print the line, in two where the terminal is not wide enough."""
    where, width = f"-> {screen.place(folder)}", screen.width()
    fits = width is None or len(what) + 1 + len(where) <= width
    screen.say(f"{what} {where}" if fits else f"{what}\n{where}")
