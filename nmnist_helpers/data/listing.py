"""List the recordings that a folder or an archive in N-MNIST's layout holds."""

import os
import re
from pathlib import Path

from .archive import ZipFile
from .layout import EXPECTED, is_litter

_SPLITS = ("train", "test")


def _split_of(name: str) -> str | None:
    """Return the split with which a name begins, in lower case, or None."""
    return next((split for split in _SPLITS if name.lower().startswith(split)), None)


def list_folder(source: Path) -> list[tuple[str, str, int]]:
    """Return (standard name, path below the folder, size in bytes) of each recording in a split's folder.

    Raises
    ------
    ValueError
        If something else is there.
    """
    found = []
    with os.scandir(source) as folders:
        for folder in folders:
            if is_litter(folder.name):
                continue
            if len(folder.name) != 1 or folder.name not in "0123456789" or not folder.is_dir():
                raise ValueError(f"{escape(folder.path)}: {EXPECTED}, found something else")
            with os.scandir(folder.path) as files:
                for file in files:
                    if is_litter(file.name):
                        continue
                    if not file.name.lower().endswith(".bin") or not file.is_file():
                        raise ValueError(f"{escape(file.path)}: {EXPECTED}, found something else")
                    name = _standard_name(folder.name, file.name, file.path)
                    found.append((name, f"{folder.name}/{file.name}", file.stat().st_size))
    return found


def list_archive(archive: ZipFile, source: Path, split: str | None) -> list[tuple[str, int, int]]:
    """Return (standard name, number of the member, size in bytes) of each recording in an archive.

    If the archive has folders Train and Test, those of `split` are meant, by default those that its own name says.

    Raises
    ------
    ValueError
        If something else is there, or if the split is not clear.
    """
    own = _split_of(source.stem)
    wanted = _split_of(split) if split else own
    found, splits = [], set()
    for n, (member, parts) in enumerate(zip(archive.members, archive.names, strict=True)):
        if any(is_litter(part) for part in parts):
            continue
        folder, file = parts[-2:] if len(parts) > 1 else ("", parts[-1] if parts else "")
        if len(folder) != 1 or folder not in "0123456789" or not file.lower().endswith(".bin"):
            hint = "; unpack this archive once" if file.lower().endswith(".zip") else ""
            raise ValueError(f"{source}: {EXPECTED}, found {member.filename!r}{hint}")
        inside = [part.lower() for part in parts[:-2] if part.lower() in _SPLITS]
        splits.update(inside[-1:] or [""])
        if not inside or wanted in (None, inside[-1]):
            name = _standard_name(folder, file, f"{source}: {member.filename}")
            found.append((name, n, member.file_size))
    if "" in splits and len(splits) > 1:
        raise ValueError(f"{source}: expected all recordings under Train or Test, found some beside them")
    splits.discard("")
    if wanted is None and len(splits) == 2:
        raise ValueError(
            f"{source}: expected one split, found Train and Test; unpack it and name the folder of one, or pass split"
        )
    if not splits and own is None and split:
        raise ValueError(
            f"{source}: expected folders Train and Test inside, or an archive named Train.zip or Test.zip,"
            " found neither"
        )
    if not splits and own not in (None, wanted):
        raise ValueError(f"{source}: expected recordings of {split}, found an archive of {own.capitalize()}")
    if splits and not found:
        raise ValueError(f"{source}: expected recordings under {wanted}, found them under {splits.pop()}")
    return found


def _standard_name(folder: str, file: str, path: str) -> str:
    """Return ``<digit>/<id>.bin`` for a file; raise if its name shows that it is a copy, as in ``00001 (1).bin``."""
    if re.match(r"\d+\D", file[:-4]):
        raise ValueError(f"{escape(path)}: expected <id>.bin, found a copy that a cloud folder or a file manager made")
    return f"{folder}/{file[:-4]}.bin"


def escape(name: str) -> str:
    """Return a file's name with escapes for bytes that are not UTF-8, which could not be printed."""
    return name.encode("utf-8", "backslashreplace").decode()
