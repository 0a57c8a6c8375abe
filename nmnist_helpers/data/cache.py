"""Keep packed recordings in cache files: in the data folder, else in the user's cache folder."""

import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from ..console import tell
from ..io import PackedEvents
from ..paths import cache_folder, is_protected, writable
from ..processes import locked
from .event_file import SUFFIX, CacheError, MappedEvents, open_cache, write_cache


def _may_write(path: Path) -> bool:
    # The permissions of the data folder count, not those of a `.cache` that somebody left in a read-only data folder.
    folder = path.parent
    if folder.name == ".cache" and folder.parent.exists() and is_protected(folder.parent):
        return False
    return writable(folder)


def cache_files(root: Path, name: str) -> list[Path]:
    """Return the possible paths of the cache `name` of the data folder `root`, the preferred one first.

    The first is in ``<root>/.cache``. The second, for data folders that cannot be written, is in `paths.cache_folder`
    and has a name that is different for each data folder.
    """
    mark = zlib.crc32(str(root.resolve()).encode())
    return [root / ".cache" / (name + SUFFIX), cache_folder() / f"{name}-{mark:08x}{SUFFIX}"]


def cached(
    paths: list[Path], key: dict, make: Callable[[], tuple[int, int, Callable[..., PackedEvents]]]
) -> MappedEvents:
    """Open the first usable cache of `paths`; if there is none, write one in the first folder that can be written.

    Parameters
    ----------
    paths : list of Path
        See `cache_files`.
    key : dict of plain values
        See `open_cache`.
    make : function -> (recordings, events, fill)
        Called only if the cache has to be written; see `write_cache` for what it returns.

    Raises
    ------
    OSError
        If no folder can be written, or the disk has too little space.
    """
    for path in paths:
        try:
            return open_cache(path, key)
        except (CacheError, OSError):
            continue
    for path in paths:
        if not _may_write(path):
            continue
        with ExitStack() as lock:
            try:  # one process writes the file; the others wait and then open it
                lock.enter_context(locked(path.with_suffix(".lock"), f"that writes {path}"))
                return open_cache(path, key)
            except PermissionError:
                continue  # such as a lock file that another user has made
            except FileNotFoundError:
                pass
            except CacheError as error:
                tell(f"{path}: {error}; writing it anew")
            write_cache(path, key, *make())
            try:
                return open_cache(path, key)
            except (CacheError, FileNotFoundError) as error:  # by another machine, or without locks
                raise OSError(f"{path}: replaced by another process ({error})") from error
    raise OSError(f"expected a folder that can be written, found none: {', '.join(str(path.parent) for path in paths)}")
