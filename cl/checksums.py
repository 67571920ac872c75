"""What is read back is checked: zip archives, which torch writes, by their CRC-32, our JSON files by an entry.

A file that was changed on its way or torn is refused in one line; nothing is computed from it.
"""

import errno
import hashlib
import json
import zipfile
from pathlib import Path

ENTRY = "checksum"  # of a JSON file, over all other entries; files of earlier versions have none
AGAIN = "put a whole copy in its place, or make it again"
FOLDER = 0x10  # an attribute of entries, which zipfile does not look at
CHUNK = 1 << 18  # bytes that fit into a processor's cache


class DamagedError(ValueError):
    """A file is not what was written: one line with the file, what is wrong with it, and what to do."""


def check_archive(path: Path, what: str | None = None, remedy: str = AGAIN) -> bool:
    """Compare all that is in a zip archive with its checksums; `what` names the file, `remedy` says what to do.

    Returns False if there is nothing to compare with: the file is no archive, or was written without checksums
    (`torch.serialization.set_crc32_options(False)` writes zeros). Raises DamagedError.
    """
    what = what or str(path)
    if not _looks_like_archive(path):
        return False
    entry = ""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if not any(each.CRC for each in entries):
                return False
            for each in entries:
                entry = f" in its entry {each.filename}"
                if each.file_size and (each.is_dir() or each.external_attr & FOLDER):
                    raise zipfile.BadZipFile("torch reads nothing from a folder, and leaves in memory what was there")
                with archive.open(each) as file:
                    while file.read(CHUNK):
                        pass
    except OSError as error:
        if error.errno != errno.EINVAL:  # a position that the file cannot have, from a changed table of contents
            raise
        raise _damaged(what, f"it is torn or changed{entry}", remedy) from error
    except Exception as error:  # zipfile raises many types for tables of contents that make no sense
        raise _damaged(what, f"it is torn or changed{entry}", remedy) from error
    return True


def read_json(path: Path, what: str | None = None, remedy: str = AGAIN) -> dict:
    """The content of a JSON file that `cl.atomic.write_json` wrote, without its checksum.

    Raises OSError if it cannot be read, DamagedError if it is no JSON object or not what was written.
    """
    what = what or str(path)
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _damaged(what, "it is no JSON, torn or changed", remedy) from error
    if not isinstance(content, dict):
        raise _damaged(what, f"expected a JSON object, got {type(content).__name__}", remedy)
    # Files of earlier versions have that of the numbers as they were spelled.
    if ENTRY in content and content.pop(ENTRY) not in (of_json(content), _digest(content)):
        remedy += f"; if you have changed it by hand, remove its entry {ENTRY}"
        raise _damaged(what, "its content does not fit its checksum", remedy)
    return content


def of_json(content: dict) -> str:
    """The checksum of what a JSON file says; the order of its entries matters, its layout does not.

    Other programs write 1.0 as 1, which is the same number in JSON, and letters with or without escapes.
    """
    return _digest(json.loads(json.dumps(content), parse_float=_number))


def _number(text: str) -> int | float:
    number = float(text)
    return int(number) if number.is_integer() else number


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _damaged(what: str, wrong: str, remedy: str) -> DamagedError:
    return DamagedError(f"{what} is damaged ({wrong}): {remedy}")


def _looks_like_archive(path: Path) -> bool:
    """Whether a file begins or ends like an archive: a torn one has lost one of the two."""
    with open(path, "rb") as file:
        begins = file.read(4) == b"PK\3\4"
    return begins or zipfile.is_zipfile(path)
