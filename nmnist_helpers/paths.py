"""The project's folders and the data folder; none of them depends on the working directory."""

import functools
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_path, user_data_path


def expanded(path: str | os.PathLike) -> Path:
    """Return a path in which ``~`` is replaced by a home folder; raise ValueError if there is no such folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: expected ~ or ~USER with a home folder, found none") from error


def _folder_of_user(usual: Callable[..., Path]) -> Path:
    """Return one of the user's usual folders; without a home folder, as in some containers, a temporary one."""
    try:
        return usual("nmnist_helpers", appauthor=False)
    except RuntimeError:
        return _temporary_folder()


@functools.cache
def _temporary_folder() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else 0  # Windows has a temporary folder for each user
    folder = Path(tempfile.gettempdir()) / f"nmnist_helpers-{user}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    # Compiled code is loaded from this folder, so it must not be another user's.
    return folder if folder.stat().st_uid == user else Path(tempfile.mkdtemp(prefix="nmnist_helpers-"))


def _root() -> Path:
    """Return the folder that contains ``data/``, ``gifs/`` and ``Trained/``."""
    if os.environ.get("NMNIST_HOME"):
        return expanded(os.environ["NMNIST_HOME"]).resolve()
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").is_file() and (checkout / "notebooks").is_dir():
        return checkout
    return _folder_of_user(user_data_path)  # for an installed package, which is not in a checkout


#: Folder in which notebooks and commands read and write: the environment variable ``NMNIST_HOME``, else the checkout of
#: the repository, else (for an installed package) the user's data folder.
ROOT = _root()
GIFS = ROOT / "gifs"
TRAINED = ROOT / "Trained"


def hint_for(path: str | os.PathLike) -> str:
    """Return what the message about a missing file should add: where trained networks come from, or nothing."""
    if TRAINED.exists() or not expanded(path).absolute().is_relative_to(TRAINED):
        return ""
    return "; the trained networks come with the repository, not with pip: clone it and name its folder in NMNIST_HOME"


def data_root(path: str | os.PathLike | None = None) -> Path:
    """Return the folder of the recordings, which need not exist.

    Parameters
    ----------
    path : path-like, optional
        An explicit folder; it takes precedence over the environment variable.

    Returns
    -------
    Path
        ``path``, else the environment variable ``NMNIST_DATA``, else ``data/`` in `ROOT`.
    """
    chosen = (os.environ.get("NMNIST_DATA") or None) if path is None else path
    return ROOT / "data" if chosen is None else expanded(chosen).resolve()


def cache_folder() -> Path:
    """Return the user's cache folder: ``$XDG_CACHE_HOME/nmnist_helpers``, else the operating system's usual place.

    The folder need not exist. The environment variable is used on every operating system, so that one setting moves
    all caches.
    """
    chosen = os.environ.get("XDG_CACHE_HOME", "").strip()
    if chosen:
        return expanded(chosen).absolute() / "nmnist_helpers"
    folder = _folder_of_user(user_cache_path)
    try:
        usable = folder.exists() or os.access(_nearest(folder), os.W_OK)
    except PermissionError:
        usable = False
    return folder if usable else _temporary_folder()  # some containers have a home folder in which nobody may write


def _nearest(folder: Path) -> Path:
    """Return `folder`, or the folder nearest to it that exists."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def writable(folder: Path) -> bool:
    """Return whether files can be made in `folder`, which is made if it does not exist.

    A file is written as a test, because permissions do not reveal a read-only disk. A folder without write permission
    is left alone, even if the system would allow writing, as it does for root.
    """
    try:
        if is_protected(_nearest(folder)):
            return False
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        return False
    return True


def is_protected(folder: Path) -> bool:
    """Return whether a folder's permissions forbid writing; on Windows, such a mark on a folder has another meaning."""
    return os.name != "nt" and not folder.stat().st_mode & 0o222


__all__ = ["GIFS", "ROOT", "TRAINED", "cache_folder", "data_root"]
