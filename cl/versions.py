"""Which remerge this is: its version, and the commit of a checkout. Needs no torch."""

import functools
import subprocess
from pathlib import Path

from cl import __version__


@functools.cache
def commit() -> str | None:
    """The commit of the checkout, with `-dirty` where files were changed since; None for an installed package."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    git = subprocess.run(["git", "-C", root, "describe", "--always", "--dirty"], capture_output=True, text=True)
    return git.stdout.strip() or None


def made_with(versions: dict) -> str:
    """`versions` of a results.json in words."""
    version, made_at = versions.get("remerge", "before 0.2.0"), versions.get("git_commit")
    return f"remerge {version}" + (f", commit {made_at}" if made_at else "")


def this() -> dict:
    """The same of this process, for results.json."""
    return {"remerge": __version__, "git_commit": commit()}
