"""Where the files of conf/ are: beside the code in a checkout, within the package `remerge` once it is installed."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def _found(in_checkout: str, installed: str) -> Path:
    """The file or folder of a checkout, or the copy of it that an installation has."""
    checkout = (ROOT / "pyproject.toml").is_file()  # else a folder of this name beside the code is not ours
    place = ROOT / (in_checkout if checkout else installed)
    if place.exists():
        return place
    raise FileNotFoundError(
        f"remerge is not installed completely: there is no {place}; install it again "
        "(pip install --force-reinstall remerge)"
    )


CONF = _found("conf", "remerge/conf")
HOROVOD = _found("scripts/build_horovod.py", "remerge/build_horovod.py")
