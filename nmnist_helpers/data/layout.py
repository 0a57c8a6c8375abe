"""Find the recordings of a split, even if a browser, a cloud folder or a file manager has changed N-MNIST's layout."""

import os
import re
from pathlib import Path

EXPECTED = "expected <digit>/<id>.bin with digits 0 to 9"
#: Files and folders that file managers and archivers leave behind.
_LITTER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "icon\r"}
#: Endings of files with a split's name that cannot be read: unfinished downloads, and other kinds of archives.
_UNFINISHED = r"(\.zip)?\.(crdownload|part|partial|download|opdownload|tmp|aria2|!ut)"
_OTHER = r"\.(tar|tgz|tar\.\w+|rar|7z|gz|z\d\d|zip\.\d+|zipx)"


def split_name(train: bool) -> str:
    """Return N-MNIST's name for a split; raise ValueError unless `train` is True or False."""
    if train not in (True, False):
        raise ValueError(f"train: expected True or False, found {train!r}")
    return "Train" if train else "Test"


def is_litter(name: str) -> bool:
    """Return whether a file or folder of this name is ignored. (All other unexpected files raise an error.)"""
    return name.startswith(".") or name.lower() in _LITTER


def _is_collection(name: str) -> bool:
    """Return whether a name stands for the whole dataset: N-MNIST, nmnist (1), 468j46mzdv-1 (its Mendeley number)."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return "nmnist" in plain or plain.startswith("468j46mzdv")


def find(root: Path, train: bool) -> Path | None:
    """Return the folder or zip archive that holds a split, or None if there is neither.

    The names are searched for in this order, ignoring case: the folder ``Train``; ``Train.zip``; a browser's
    ``Train (1).zip``; the same in a folder ``N-MNIST``; an archive ``N-MNIST.zip`` of both splits. `root` may also be
    an archive. It is then returned unchanged.

    Raises
    ------
    ValueError
        If there is only a file that cannot be read, such as an unfinished download, or if `root` is itself the folder
        of a split; the message names the file or folder.
    """
    if root.is_file():
        return root
    if not root.is_dir():
        return None
    split = split_name(train).lower()
    entries = sorted((entry for entry in os.scandir(root) if entry.name.lower() != "__macosx"), key=lambda e: e.name)
    folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    files = [entry for entry in entries if entry.is_file()]
    for entry in folders:
        if entry.name.lower() == split:
            return _innermost_folder(Path(entry.path), split)
    for pattern in (rf"{split}\.zip", rf"{split}[ _-]*(\(\d+\)|\d+|copy.*|kopie.*|copie.*)\.zip"):
        for entry in files:
            if re.fullmatch(pattern, entry.name.lower()):
                return Path(entry.path)
    for entry in folders:
        folder = Path(entry.path)
        if not _is_collection(entry.name) or root.resolve().is_relative_to(folder.resolve()):
            continue  # the second is a link to a folder that is being searched already
        if (folder / "__init__.py").exists():
            continue  # a Python package, such as this one, which has a folder `train`
        if found := find(folder, train):
            return found
    for entry in files:
        if entry.name.lower().endswith(".zip") and _is_collection(entry.name[:-4]):
            return Path(entry.path)
    for entry in files:
        name = entry.name.lower()
        if re.fullmatch(split + _UNFINISHED, name):
            raise ValueError(f"{entry.path}: expected {split_name(train)}.zip, found an unfinished download; let it "
                             "finish, or remove it")  # fmt: skip
        if name == f".{split}.zip.icloud":
            raise ValueError(f"{entry.path}: expected {split_name(train)}.zip, found an iCloud placeholder; download "
                             "the file in the Finder")  # fmt: skip
        if re.fullmatch(split + _OTHER, name) or name == split:
            raise ValueError(f"{entry.path}: expected {split_name(train)}.zip or a folder {split_name(train)}, found "
                             "another kind of file; unpack this file into a folder")  # fmt: skip
    digits = [entry.name for entry in folders if len(entry.name) == 1 and entry.name in "0123456789"]
    if len(digits) > 1:
        raise ValueError(f"{root}: expected the folder that holds Train and Test, found the digits' folders "
                         f"{', '.join(digits)}; pass {root.parent}")  # fmt: skip
    return None


def _innermost_folder(folder: Path, split: str) -> Path:
    """Return the folder that holds the digits' folders: some archivers put one folder ``Train`` into another."""
    for _ in range(4):
        inside = [entry for entry in os.scandir(folder) if not is_litter(entry.name)]
        if len(inside) != 1 or not inside[0].is_dir():
            break
        if inside[0].name.lower() != split and not _is_collection(inside[0].name):
            break
        folder = Path(inside[0].path)
    return folder
