"""Where the files of conf/ are: beside the code in a checkout, within the package `remerge` once it is installed."""

import sys
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


def program(command: str) -> str:
    """How `run`, `merge` or `report` is called: by its script in a checkout, by its name once it is installed."""
    if Path(sys.argv[0]).name.startswith("remerge-"):
        return f"remerge-{command}"
    return "python -m cl.report" if command == "report" else f"python {command}.py"


_places: set[Path] = set()  # folders of the user's modules, beside those of options
_own: list[Path] = []  # folders of the user's own options, in the order in which they became known


def use(folder: str | Path) -> None:
    """Make a folder of the user's own options known, as --config-dir names it.

    Modules beside that folder can be imported from then on; whether they are is a matter of `trust`. Raises ValueError
    for an option with the name of one of ours, which Hydra would take in its place.
    """
    folder = Path(folder).resolve()
    for path in sorted(folder.rglob("*.yaml")):
        ours = CONF / path.relative_to(folder)
        if ours.is_file() and ours.read_bytes() != path.read_bytes():
            option = "=".join(ours.relative_to(CONF).with_suffix("").as_posix().rsplit("/", 1))
            raise ValueError(
                f"{path} has the name of a file of remerge, {option}, and would never be read: give it another name"
            )
    _check_modules(folder.parent)
    if folder in _own:
        _own.remove(folder)
    _own.insert(0, folder)  # the newest goes first
    if str(folder.parent) not in sys.path:
        sys.path.append(str(folder.parent))


def _check_modules(place: Path) -> None:
    """Raise ValueError for a module here whose name one of another such place has taken: Python would run that one."""
    for path in place.glob("*.py"):
        file = getattr(sys.modules.get(path.stem), "__file__", None)
        if file is not None and Path(file).parent in _places - {place}:
            raise ValueError(
                f"{path} has the name of {file}, which this process has imported already: give one of them another "
                "name, or start a new process"
            )
    _places.add(place)


def forget() -> None:
    """Know no folder of the user's own: for a process that composes one configuration after the other."""
    _own.clear()


def own_folders() -> tuple[Path, ...]:
    """The folders of the user's own options."""
    return tuple(_own)


def names(group: str) -> list[str]:
    """The options of a group, ours and the user's."""
    return sorted({path.stem for folder in (CONF, *_own) for path in (folder / group).glob("*.yaml")})


def file_of(group: str, name: str) -> Path | None:
    """The file of an option; None if there is none."""
    paths = (folder / group / f"{name}.yaml" for folder in (CONF, *_own))
    return next((path for path in paths if path.is_file()), None)
