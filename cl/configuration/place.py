"""Where the files of conf/ are: beside the code in a checkout, within the package `remerge` once it is installed."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def _found(name: str) -> Path:
    """A folder of the checkout, or the copy of it that an installation has."""
    checkout = (ROOT / "pyproject.toml").is_file()  # else a folder of this name beside the code is not ours
    place = ROOT / name if checkout else ROOT / "remerge" / name
    if place.is_dir():
        return place
    raise FileNotFoundError(
        f"remerge is not installed completely: there is no {place}; install it again "
        "(pip install --force-reinstall remerge)"
    )


CONF = _found("conf")
