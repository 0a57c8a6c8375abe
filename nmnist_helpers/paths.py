"""Where things live: the project's folders and the data root, whatever the working directory."""

import os
from pathlib import Path

import platformdirs

ROOT = Path(__file__).resolve().parents[1]
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
        ``path``, else the environment variable ``NMNIST_DATA``, else ``data/`` beside the
        notebooks' folder.
    """
    if path is not None:
        return Path(path).expanduser().resolve()
    if os.environ.get("NMNIST_DATA"):
        return Path(os.environ["NMNIST_DATA"]).expanduser().resolve()
    return ROOT / "data"


def cache_folder() -> Path:
    """The user's own folder for what can be made anew, such as compiled kernels (it may not exist yet)."""
    return platformdirs.user_cache_path("nmnist_helpers", appauthor=False)
