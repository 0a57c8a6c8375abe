"""Training at full length: the notebook's loop as a command, ``python -m nmnist_helpers train``.

    python -m nmnist_helpers train --epochs 100 --out Trained/long
    python -m nmnist_helpers train --out Trained/long --resume
    torchrun --nproc-per-node 2 -m nmnist_helpers.train ...

`settings` says what a run depends on, `parts` which recordings it learns from, `progress` what changes as it goes on,
`folder` where it is kept; `group` is the processes that train together, and `loop` puts them to work.
"""

from collections.abc import Sequence
from typing import Any

from ..checkpoint import CheckpointError
from .folder import Folder
from .loop import DEFAULT_OUT, answers, run
from .parts import split
from .settings import Settings, parser


def main(argv: Sequence[str] | None = None) -> dict:
    """Parse the command line and run."""
    return run(*given_settings(vars(parser().parse_args(argv))))


def given_settings(given: dict) -> tuple[Settings, bool, bool]:
    """Settings, resume and overwrite of a parsed command line; a run that goes on keeps what is not given anew."""
    given = dict(given)
    resume, overwrite = given.pop("resume"), given.pop("overwrite")
    if resume and overwrite:
        raise ValueError("--resume, --overwrite: expected one of them, found both")
    kept: Any = {}
    if resume:
        folder = Folder(given.get("out", DEFAULT_OUT))
        kept = folder.load().get("settings")
        if not isinstance(kept, dict) or kept.keys() != Settings().lasting().keys():
            raise CheckpointError(f"{folder.checkpoint}: expected the settings of a run, found {kept!r:.80}")
    return Settings(**kept | given), resume, overwrite


__all__ = ["Settings", "answers", "given_settings", "main", "parser", "run", "split"]
