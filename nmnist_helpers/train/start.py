"""Start or resume a run: check everything that can be checked before the first epoch, then run the loop."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace

from ..checkpoint import load_checkpoint
from ..checkpoint.archive import MAX_FILE
from ..data import layout
from ..data.dataset import NMNISTDataset
from ..data.recordings import Recordings
from ..paths import expanded
from .folder import Folder, resume_with
from .group import Group, set_by_torchrun
from .loop import Loop
from .parts import fingerprint, learn_and_validate
from .progress import Progress
from .settings import DEFAULT_OUT, Settings


def run(settings: Settings, resume: bool = False, overwrite: bool = False, folder: Folder | None = None) -> dict:
    """Train a network, choose its best epoch, and test that epoch once on the test recordings.

    Parameters
    ----------
    settings : Settings
    resume : bool
        Continue the run in the output folder. The result is bit-identical to that of an uninterrupted run. A finished
        run continues if `settings` asks for more epochs (with a constant step size only).
    overwrite : bool
        Replace the run in the output folder.
    folder : Folder, optional
        The output folder, if an interrupted run is to name another command than ``train``.

    Returns
    -------
    dict
        The contents of ``result.json``: settings, best epoch (counted from 0), accuracies, seconds. Empty except in
        the first process.

    Raises
    ------
    ValueError, FileExistsError, FileNotFoundError, CheckpointError
        If the run cannot start or resume as requested. Nothing has been written by then.
    OSError
        If a file cannot be written; the message names it. Files written before stay intact.
    KeyboardInterrupt
        If the run is interrupted; the message tells how to resume it.
    """
    if folder is None:
        out = expanded(DEFAULT_OUT if settings.out is None else settings.out)
        folder = Folder(out, resume_with("train", out, **settings.needed_again()))
    folder.check(resume, overwrite)
    if settings.data is not None and not expanded(settings.data).exists():
        raise FileNotFoundError(f"--data: expected a folder or an archive, found no {settings.data}")
    with contextlib.redirect_stdout(None if set_by_torchrun("RANK", 0) else sys.stdout):
        dataset = NMNISTDataset(settings.data, train=True, source=settings.source)
    if dataset.source == "recorded":
        test = layout.find(dataset.root, train=False)
        if test is None:
            raise FileNotFoundError(f"{dataset.root}: expected a folder Test or an archive Test.zip, found Train alone")
        Recordings(test, layout.split_name(False)).close()  # raises if these are not recordings to test on
    settings = replace(settings, source=dataset.source)
    if settings.takes > 1 and dataset.source != "simulated":
        raise ValueError(f"--takes: expected 1 for recordings that exist already, found {settings.takes}")
    learn, validate = learn_and_validate(dataset, settings)
    with Group(settings.device, settings.timeout) as group:
        progress = Progress(settings, group.device, fingerprint(dataset, learn, validate), group.size)
        if settings.start is not None:
            load_checkpoint(expanded(settings.start), progress.net)
        if resume:
            progress.restore(folder.load(), str(folder.checkpoint))
            folder.saved_epochs = progress.epoch
        if settings.epochs < progress.epoch:
            raise ValueError(
                f"--epochs: expected at least the {progress.epoch} that this run has, found {settings.epochs}"
            )
        # Weights, average, best, two moments, network.pt; twice, because old files stay until new ones are complete.
        room = 12 * sum(p.numel() * p.element_size() for p in progress.net.parameters())
        if room / 2 > MAX_FILE:
            raise ValueError(
                f"--hidden: expected a network whose checkpoint takes at most {MAX_FILE / 1e9:.1f} GB, found one of up"
                f" to {room / 2e9:.1f} GB"
            )
        loop = Loop(progress, group, folder, dataset, learn, validate)
        with folder.hold(resume, overwrite, room) if group.first else contextlib.nullcontext():
            group.wait_for_all()
            with _add_resume_hint(progress, folder) if group.first else contextlib.nullcontext():
                loop.train()
                with group.end_together():
                    return loop.finish() if group.first else {}


@contextlib.contextmanager
def _add_resume_hint(progress: Progress, folder: Folder) -> Iterator[None]:
    """Add to an interrupt or a write error the command that resumes the run."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if folder.saved_epochs and folder.saved_epochs == progress.epoch:
            folder.write_derived(progress.best, progress.stats)
        raise type(stop)(f"stopped; {folder.resume_hint()}") from None
    except BrokenPipeError:  # who reads the printed lines has seen enough; no file is at fault
        raise
    except OSError as error:
        raise OSError(f"{error}; {folder.resume_hint()}") from error
