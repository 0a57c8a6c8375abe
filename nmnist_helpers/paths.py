"""The project's folders and the data folder; none of them depends on the working directory."""

import os
from pathlib import Path

from platformdirs import user_cache_path, user_data_path


def _root() -> Path:
    """Return the folder that contains ``data/``, ``gifs/`` and ``Trained/``."""
    if os.environ.get("NMNIST_HOME"):
        return Path(os.environ["NMNIST_HOME"]).expanduser().resolve()
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").is_file() and (checkout / "notebooks").is_dir():
        return checkout
    return user_data_path("nmnist_helpers", appauthor=False)  # for an installed package, which is not in a checkout


#: Folder in which notebooks and commands read and write: the environment variable ``NMNIST_HOME``, else the checkout of
#: the repository, else (for an installed package) the user's data folder.
ROOT = _root()
GIFS = ROOT / "gifs"
TRAINED = ROOT / "Trained"


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
    return ROOT / "data" if chosen is None else Path(chosen).expanduser().resolve()


def cache_folder() -> Path:
    """Return the user's cache folder: ``$XDG_CACHE_HOME/nmnist_helpers``, else the operating system's usual place.

    The folder need not exist. The environment variable is used on every operating system, so that one setting moves
    all caches.
    """
    chosen = os.environ.get("XDG_CACHE_HOME", "").strip()
    if chosen:
        return Path(chosen).expanduser().absolute() / "nmnist_helpers"
    return user_cache_path("nmnist_helpers", appauthor=False)
