"""The project's folders and the data root, whatever the working directory."""

import os
from pathlib import Path

from platformdirs import user_cache_path, user_data_path


def _root() -> Path:
    """The folder that holds ``data/``, ``gifs/`` and ``Trained/``."""
    if os.environ.get("NMNIST_HOME"):
        return Path(os.environ["NMNIST_HOME"]).expanduser().resolve()
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").is_file() and (checkout / "notebooks").is_dir():
        return checkout
    return user_data_path("nmnist_helpers", appauthor=False)  # an installed package has no checkout around it


#: Where notebooks and commands read and write: the environment variable ``NMNIST_HOME``, else the checkout, else (an
#: installed package) the user's data folder.
ROOT = _root()
GIFS = ROOT / "gifs"
TRAINED = ROOT / "Trained"


def data_root(path: str | os.PathLike | None = None) -> Path:
    """Folder that holds (or will hold) the recordings.

    Parameters
    ----------
    path : path-like, optional
        An explicit folder; it wins over everything else.

    Returns
    -------
    Path
        ``path``, else the environment variable ``NMNIST_DATA``, else ``data/`` in `ROOT`.
    """
    chosen = (os.environ.get("NMNIST_DATA") or None) if path is None else path
    return ROOT / "data" if chosen is None else Path(chosen).expanduser().resolve()


def cache_folder() -> Path:
    """The user's folder for caches: ``$XDG_CACHE_HOME/nmnist_helpers``, else where the operating system puts them.

    The folder need not exist. The variable is followed on every operating system, so that one setting moves
    all caches.
    """
    chosen = os.environ.get("XDG_CACHE_HOME", "").strip()
    if chosen:
        return Path(chosen).expanduser().absolute() / "nmnist_helpers"
    return user_cache_path("nmnist_helpers", appauthor=False)
