"""Fetch the official N-MNIST archives, check and count them, and unpack them on request."""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..files import atomic, locked
from ..paths import data_root
from . import recordings
from .cache import writable
from .fetch import Downloader, DownloadError, fetch
from .layout import find, split_name

ATTRIBUTION = """\
N-MNIST: Orchard, G.; Jayawant, A.; Cohen, G.; Thakor, N.: Converting Static Image Datasets to Spiking
Neuromorphic Datasets Using Saccades. Frontiers in Neuroscience 9:437, 2015. Licence CC BY-SA 4.0.
https://www.garrickorchard.com/datasets/n-mnist"""

_MENDELEY = "https://data.mendeley.com/public-files/datasets/468j46mzdv/files/"
_PAGE = "https://data.mendeley.com/datasets/468j46mzdv/1"
#: Further mirrors: addresses of folders with Train.zip and Test.zip, separated by blanks.
MIRRORS_VARIABLE = "NMNIST_MIRRORS"


@dataclass(frozen=True)
class Archive:
    """One official archive.

    Parameters
    ----------
    split : str
        'Train' or 'Test'; the archive is ``<split>.zip``.
    md5 : str
    size : int
        About how many bytes.
    urls : tuple of str
        Mirrors, in the order in which they are tried.
    per_digit : tuple of int
        Recordings of the digits 0 to 9.
    """

    split: str
    md5: str
    size: int
    urls: tuple[str, ...]
    per_digit: tuple[int, ...]

    @property
    def name(self) -> str:
        """File name of the archive."""
        return f"{self.split}.zip"


ARCHIVES = (
    Archive(
        "Train",
        "20959b8e626244a1b502305a9e6e2031",
        1_010_000_000,
        (_MENDELEY + "39c25547-014b-4137-a934-9d29fa53c7a0/file_downloaded",),
        (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    ),
    Archive(
        "Test",
        "69ca8762b2fe404d9b9bad1103e97832",
        170_000_000,
        (_MENDELEY + "05a4d654-7e03-4c15-bdfa-9bb2bcbea494/file_downloaded",),
        (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
    ),
)


def by_hand(archive: Archive, root: Path) -> str:
    """How to get an archive without this module."""
    return (
        f"To fetch it by hand: open {_PAGE} in a browser, save {archive.name} (about {archive.size / 1e9:.2f} GB, "
        f"md5 {archive.md5}) in {root} and start again; it need not be unpacked. Or name a mirror in "
        f"{MIRRORS_VARIABLE}."
    )


def download(
    root: str | os.PathLike | None = None,
    train: bool | None = None,
    unpack: bool = False,
    archives: Sequence[Archive] = ARCHIVES,
    downloader: Downloader | None = None,
) -> list[Path]:
    """Fetch what is missing of the official archives, and check it.

    Parameters
    ----------
    root : path-like, optional
        Data folder; see `paths.data_root`.
    train : bool, optional
        Only the training or only the test archive.
    unpack : bool
        Unpack the archives into folders. It is not needed: `NMNISTDataset` reads archives as well.
    archives : sequence of Archive
        By default the official ones.
    downloader : Downloader, optional
        Where the usual patience will not do.

    Returns
    -------
    list of Path
        The archives, or the folders where they are or were unpacked.

    Raises
    ------
    DownloadError
        Where no mirror gave an archive; the message tells how to fetch it by hand.
    OSError
        Where the folder cannot be written or the disk is too small.
    ValueError
        Where an archive does not hold what it should.
    """
    root = data_root(root)
    done = []
    for archive in archives:
        if train is not None and archive.split != split_name(train):
            continue
        place = find(root, archive.split == "Train")
        if place is not None and place != root / archive.name:
            _say_counts(place, archive)
        else:
            place = _archive(root, archive, downloader)
            if unpack:
                try:
                    place = unpack_archive(place, root / archive.split)
                except FileExistsError:
                    place = root / archive.split  # another process was faster
        done.append(place)
    return done


def _say_counts(place: Path, archive: Archive) -> None:
    counts = np.bincount(recordings.Recordings(place, archive.split).labels, minlength=10).tolist()
    if counts != list(archive.per_digit):
        print(
            f"{place}: {sum(counts)} recordings, of the digits 0 to 9 {', '.join(map(str, counts))}; the official "
            f"archive has {sum(archive.per_digit)}. Nothing fetched: move it away to get them all."
        )


def _archive(root: Path, archive: Archive, downloader: Downloader | None) -> Path:
    """The checked archive in `root`, fetched if it is not there."""
    target = root / archive.name
    if _checked_before(target, archive):
        return target
    if not target.exists():
        if not writable(root):
            raise PermissionError(
                f"{root}: expected a folder that can be written, found one that cannot be written. "
                f"{by_hand(archive, root)}"
            )
        print(ATTRIBUTION)
    mirrors = [f"{base.rstrip('/')}/{archive.name}" for base in os.environ.get(MIRRORS_VARIABLE, "").split()]
    try:
        fetch(
            [*mirrors, *archive.urls],
            target,
            archive.md5,
            archive.size,
            lambda path: check_archive(path, archive),
            downloader,
        )
    except DownloadError as error:
        raise DownloadError(f"{error}\n{by_hand(archive, root)}") from None
    counts = check_archive(target, archive)
    print(f"{target}: {sum(counts)} recordings, as expected; of the digits 0 to 9 {', '.join(map(str, counts))}")
    with suppress(OSError), atomic(_mark(target)) as temporary:  # read-only: it will be checked again
        temporary.write_text(json.dumps(_stamp(target, archive)))
    return target


def _mark(target: Path) -> Path:
    return target.with_name(f".{target.name}.checked")


def _stamp(target: Path, archive: Archive) -> dict:
    found = target.stat()
    return {"md5": archive.md5, "size": found.st_size, "changed": found.st_mtime_ns}


def _checked_before(target: Path, archive: Archive) -> bool:
    # The sum of a gigabyte takes seconds; it is not worked out again for a file that has not changed.
    try:
        return json.loads(_mark(target).read_text()) == _stamp(target, archive)
    except (OSError, ValueError):
        return False


def check_archive(path: Path, archive: Archive) -> list[int]:
    """Recordings of each digit in an archive.

    Raises
    ------
    ValueError
        Where it is no archive, holds something foreign or unsafe, or the counts are not the official ones.
    """
    try:
        found = recordings.Recordings(path, archive.split)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from error
    counts = np.bincount(found.labels, minlength=10).tolist()
    if counts != list(archive.per_digit):
        raise ValueError(
            f"{path}: expected {sum(archive.per_digit)} recordings, of the digits 0 to 9 {list(archive.per_digit)}, "
            f"found {sum(counts)}, {counts}"
        )
    return counts


def unpack_archive(path: str | os.PathLike, target: str | os.PathLike) -> Path:
    """Unpack an archive of recordings into the folder `target`, wholly or not at all.

    Parameters
    ----------
    path : path-like
        The archive.
    target : path-like
        The folder to be made, such as ``data/Train``; it gets ``<digit>/<id>.bin``.

    Raises
    ------
    FileExistsError
        Where `target` is there already.
    OSError
        Where the disk is too small.
    ValueError
        Where a member is unsafe, foreign or damaged.
    """
    path, target = Path(path), Path(target)
    found = recordings.Recordings(path, target.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    need, free = int(found.sizes.sum()) + 4096 * len(found), shutil.disk_usage(target.parent).free
    if free < need:
        raise OSError(
            f"{target.parent}: expected {need / 1e9:.2f} GB of room to unpack {path.name}, "
            f"found {free / 1e9:.2f} GB free"
        )
    with locked(target.with_name(f".{target.name}.lock"), f"that unpacks {target}"):
        if target.exists():
            raise FileExistsError(f"{target}: expected no such folder yet, found one")
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            for digit in np.unique(found.labels):
                (temporary / str(digit)).mkdir()
            for n in tqdm(range(len(found)), desc=f"unpacking {path.name}", unit="rec"):
                # `names` are <digit>/<id>.bin and nothing else, whatever the archive calls its members.
                (temporary / found.names[n]).write_bytes(found.read(n))
            temporary.chmod(0o755)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def main(argv: Sequence[str] | None = None) -> None:
    """The command ``python -m nmnist_helpers.download``."""
    parser = argparse.ArgumentParser(
        prog="python -m nmnist_helpers download", description="Fetch and check the official N-MNIST archives (1.2 GB)."
    )
    parser.add_argument("root", nargs="?", help="data folder (default NMNIST_DATA, else data/ beside notebooks/)")
    parser.add_argument(
        "--unpack", action="store_true", help="also unpack the archives (not needed: the dataset reads archives)"
    )
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--train", action="store_const", const=True, dest="train", help="fetch the training archive only")
    part.add_argument("--test", action="store_const", const=False, dest="train", help="fetch the test archive only")
    options = parser.parse_args(argv)
    for path in download(options.root, options.train, options.unpack):
        print(path)
