"""Long training runs: the notebook's training loop as a command, ``python -m nmnist_helpers train``.

    python -m nmnist_helpers train --epochs 100 --out Trained/long
    python -m nmnist_helpers train --out Trained/long --resume
    torchrun --nproc-per-node 2 -m nmnist_helpers.train ...

`settings` defines what a run depends on, and `parts` selects its recordings. `progress` holds the state of a run, and
`folder` its files. `group` manages the processes that train together, and `loop` runs the epochs.
"""

from collections.abc import Sequence
from typing import Any

from ..checkpoint import CheckpointError
from ..lava import public
from .folder import Folder
from .loop import answers
from .parts import split
from .settings import DEFAULT_OUT, Settings, parser
from .start import run


def main(argv: Sequence[str] | None = None) -> dict:
    """Parse the command line and return the result of `run`."""
    return run(*given_settings(vars(parser().parse_args(argv))))


def given_settings(given: dict) -> tuple[Settings, bool, bool]:
    """Return settings, resume and overwrite from a parsed command line; a resumed run keeps what is not given."""
    given = dict(given)
    resume, overwrite = given.pop("resume"), given.pop("overwrite")
    if resume and overwrite:
        raise ValueError("--resume, --overwrite: expected one of them, found both")
    saved: Any = {}
    if resume:
        folder = Folder(given.get("out", DEFAULT_OUT))
        saved = folder.load().get("settings")
        if not isinstance(saved, dict):
            raise CheckpointError(f"{folder.checkpoint}: expected the settings of a run, found {saved!r:.80}")
        if other := saved.keys() ^ Settings().saved_dict().keys():
            raise CheckpointError(
                f"{folder.checkpoint}: expected a run of this version of the package, found one of another version,"
                f" which differs in these settings: {', '.join(sorted(map(str, other)))}"
            )
    return Settings(**saved | given), resume, overwrite


__dir__ = public(__name__)

__all__ = ["Settings", "answers", "given_settings", "main", "parser", "run", "split"]
