"""Data that lies in another form than is expected: used where its name says what it is, else named in the error."""

import os
from pathlib import Path

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".7z")


def root_of(root: Path, folder: str) -> Path:
    """The folder that has `folder` below it, also where `root` is one too deep: MNIST/ or MNIST/raw/ itself."""
    parts = Path(folder).parts
    if (root / folder).is_dir():
        return root
    absolute = Path(os.path.abspath(root))
    for depth in range(len(parts), 0, -1):
        if absolute.parts[-depth:] == parts[:depth] and absolute.is_dir():
            return absolute.parents[depth - 1]
    return root


def seen(root: Path, folder: str, files: tuple[str, ...] = ()) -> str:
    """What lies at `root` in place of `folder` and what to do with it, to be added to an error; "" where nothing does.

    `files`: how the names begin of what should lie in the folder, or in one beside it that is another form of it.
    """
    if not root.is_dir():
        return f"; there is no folder {root}" if not root.exists() else f"; {root} is no folder"
    if (root / folder).is_dir():
        return ""
    names = sorted(entry.name for entry in os.scandir(root))
    below = [name for name in names if (root / name / folder).is_dir()]
    if below:
        return f"; it was seen one folder deeper: set dataset.root={root / below[0]}"
    beginnings = (Path(folder).parts[0].lower(), *files)
    like = [name for name in names if name.lower().startswith(beginnings)]
    packed = [name for name in like if name.lower().endswith(ARCHIVES)]
    if packed:
        return f"; the archive {root / packed[0]} was seen: unpack it there"
    loose = [name for name in like if (root / name).is_file()]
    if loose:
        return (
            f"; {root / loose[0]} was seen, which may be a part of it: if so, move it and its like to {root / folder}"
        )
    if like:
        return f"; the folder {root / like[0]} was seen, whose name is like it"
    return ""
