"""Print lines and progress bars, whatever the streams of the process are."""

import sys

from tqdm import tqdm


def tell(line: str, flush: bool = False) -> None:
    """Print a line; characters that standard output cannot encode become codes, so that no path stops the program."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), flush=flush)


def progress_bar(iterable=None, hidden: bool | None = False, **options) -> tqdm:
    """Return a bar of tqdm on standard error, hidden where there is none (as in a program without a console).

    With ``hidden=None``, it is hidden where standard error is no terminal, too.
    """
    return tqdm(iterable, disable=True if sys.stderr is None else hidden, **options)
