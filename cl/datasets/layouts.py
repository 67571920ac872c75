"""Help with data in unexpected places: it is used if its name identifies it, else the error names it."""

import os
from pathlib import Path

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".7z")


def root_of(root: Path, folder: str) -> Path:
    """The folder that contains `folder`: `root`, or one above it if `root` is `folder` itself or a part of its path."""
    parts = Path(folder).parts
    if (root / folder).is_dir():
        return root
    absolute = Path(os.path.abspath(root))
    for depth in range(len(parts), 0, -1):
        if absolute.parts[-depth:] == parts[:depth] and absolute.is_dir():
            return absolute.parents[depth - 1]
    return root


def seen(root: Path, folder: str, files: tuple[str, ...] = ()) -> str:
    """The end of an error message: what was found at `root` in place of `folder`, and what to do; "" for nothing.

    `files`: beginnings of the names of the data set's files and archives, in lower case.
    """
    if not root.is_dir():
        return f"; there is no folder {root}" if not root.exists() else f"; {root} is not a folder"
    if (root / folder).is_dir():
        return ""
    names = sorted(entry.name for entry in os.scandir(root))
    below = [name for name in names if (root / name / folder).is_dir()]
    if below:
        return f"; it was found one folder deeper: set dataset.root={root / below[0]}"
    beginnings = (Path(folder).parts[0].lower(), *files)
    like = [name for name in names if name.lower().startswith(beginnings)]
    packed = [name for name in like if name.lower().endswith(ARCHIVES)]
    if packed:
        return f"; the archive {root / packed[0]} was found: unpack it there"
    loose = [name for name in like if (root / name).is_file()]
    if loose:
        return (
            f"; {root / loose[0]} was found, which may be a part of it: if so, move it and similar files to "
            f"{root / folder}"
        )
    if like:
        return f"; the folder {root / like[0]} was found, which has a similar name"
    return ""
