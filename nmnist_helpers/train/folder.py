"""The folder of a run: a lock for one run at a time, a checkpoint with the whole state, and files derived from it."""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..checkpoint import load_tree, save_tree
from ..files import atomic, named, sweep
from ..paths import expanded
from ..processes import acquire
from .group import set_by_torchrun
from .settings import flag

CHECKPOINT = "checkpoint.pt"
REALITY = "reality.json"  # the report of `nmnist_helpers.sim2real`
#: Files derived from the checkpoint, in order of removal: a report is removed before the network that it describes.
DERIVED = (REALITY, "result.json", "network.pt", "loss.txt", "accuracy.txt", "curves.png")


def resume_with(command: str, path: Path, **options: Any) -> str:
    """Return the command line that resumes the run in a folder, with as many processes as there are now.

    `options` are those that the checkpoint does not hold; None leaves one out.
    """
    given = {name: value for name, value in {"out": path, **options}.items() if value is not None}
    words = "".join(f" {flag(name)} {_quote(str(value))}" for name, value in given.items())
    processes, nodes = set_by_torchrun("WORLD_SIZE", 1), set_by_torchrun("GROUP_WORLD_SIZE", 1)
    if processes == 1:
        return f"python -m nmnist_helpers {command}{words} --resume"
    program = f"--nproc-per-node {set_by_torchrun('LOCAL_WORLD_SIZE', processes)} -m nmnist_helpers.{command}"
    if nodes == 1:
        return f"torchrun {program}{words} --resume"
    return f"torchrun --nnodes {nodes} {program}{words} --resume (on every node, with the same rendezvous options)"


def _quote(word: str) -> str:
    """Quote a word for this computer's shell, if necessary."""
    return subprocess.list2cmdline([word]) if os.name == "nt" else shlex.quote(word)


class Folder:
    """The folder in which a run keeps its files.

    Parameters
    ----------
    path : path-like
        Created by `hold` if it is missing.
    resume_command : str, optional
        The command that continues the run; by default ``train`` with this folder.
    hint : str, optional
        What `resume_hint` returns instead, for a run that cannot be resumed.

    Attributes
    ----------
    saved_epochs : int or None
        Number of epochs in the checkpoint that this process has read or written; None before.
    dependent : tuple of str
        Names of the files that depend on this run's network; they are deleted before it is trained.
    """

    def __init__(self, path: str | os.PathLike, resume_command: str | None = None, hint: str | None = None):
        self.path = expanded(path)
        self.resume_command = resume_command or resume_with("train", self.path)
        self.checkpoint = self.path / CHECKPOINT
        self.hint = hint
        self._lock = FileLock(self.path / ".lock")
        self._loaded: tuple | None = None  # identifies the checkpoint that was read
        self.saved_epochs: int | None = None
        self.dependent: tuple[str, ...] = (REALITY,)

    def check(self, resume: bool, overwrite: bool) -> None:
        """Raise an error if the folder's contents do not allow the run.

        Parameters
        ----------
        resume, overwrite : bool
            What to do with the run that the folder holds: continue it, or replace it.

        Raises
        ------
        NotADirectoryError
            If there is a file of the folder's name.
        FileExistsError
            If the folder holds a run and neither option is set.
        FileNotFoundError
            If there is no checkpoint to resume from.
        """
        with named(self.path):  # a name may be too long
            is_file = self.path.is_file()
            found = [name for name in (CHECKPOINT, *DERIVED) if (self.path / name).exists()]
        if is_file:
            raise NotADirectoryError(f"{self.path}: expected a folder for the run, found a file")
        if resume and CHECKPOINT not in found:
            raise FileNotFoundError(f"--resume: expected {self.checkpoint}, found nothing there")
        if found and not (resume or overwrite):
            raise FileExistsError(
                f"{self.path}: expected a folder without a run, found {', '.join(found)}: continue that run"
                " (--resume), replace it (--overwrite), or choose another folder (--out)"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the folder, which is made if it is missing. A `Folder` may hold its lock several times.

        Raises
        ------
        FileExistsError
            If another run holds the lock.
        """
        new = not self.path.exists()
        with named(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        try:
            with named(self.path / ".lock"):
                acquire(self._lock, timeout=0)
        except Timeout:
            busy = f"{self.path}: another run is writing there; wait until it has ended, or choose another --out"
            raise FileExistsError(busy) from None
        try:
            yield
        finally:
            self._lock.release()
            with suppress(OSError):
                if new and os.listdir(self.path) == [".lock"]:  # the run was refused
                    shutil.rmtree(self.path)

    @contextmanager
    def hold(self, resume: bool, overwrite: bool, room: int) -> Iterator[None]:
        """Lock the folder for this run, and check before the first epoch that its files can be written.

        Parameters
        ----------
        resume, overwrite : bool
            As in `check`, which is called again once the folder is locked.
        room : int
            Disk space that the run needs, in bytes.

        Raises
        ------
        FileExistsError
            If another run is writing to the folder, or has written to it since `load`.
        OSError
            If the disk is full or the folder is not writable; the message names the file.
        """
        with self.locked():
            self.check(resume, overwrite)
            if resume and self._loaded not in (None, self._identify()):
                raise FileExistsError(
                    f"{self.checkpoint}: expected the checkpoint that was read, found a newer one of another run; start"
                    " the command again"
                )
            sweep(self.path)
            self._check_space(room)
            if overwrite:
                self.remove(*DERIVED)
            yield

    def _identify(self) -> tuple:
        """Return what distinguishes this checkpoint from an earlier or a later one."""
        found = self.checkpoint.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _check_space(self, room: int) -> None:
        """Raise OSError if `room` bytes cannot be written to the folder; they are written and deleted."""
        with named(self.checkpoint), tempfile.TemporaryFile(dir=self.path) as file:
            for _ in range(0, room, 1 << 20):
                file.write(b"\1" * (1 << 20))
            file.flush()
            os.fsync(file.fileno())

    def remove(self, *names: str) -> None:
        """Delete files of the run, if they exist."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def commit(self, tree: dict) -> None:
        """Save the checkpoint, from which all other files can be derived."""
        save_tree(self.checkpoint, tree)
        self.saved_epochs = tree["epoch"]

    def resume_hint(self) -> str:
        """Return the number of saved epochs and the command that resumes the run, for a run that ends early."""
        if self.hint is not None:
            return self.hint
        if self.saved_epochs is None:
            return "nothing of this run was written"
        return f"epochs saved: {self.saved_epochs}; to resume: {self.resume_command}"

    def load(self) -> dict:
        """Read the checkpoint.

        Raises
        ------
        FileNotFoundError
            If there is no checkpoint.
        CheckpointError
            If the checkpoint is damaged.
        """
        self.check(resume=True, overwrite=False)
        self._loaded = self._identify()
        return load_tree(self.checkpoint)

    def write_derived(self, best: dict | None, stats) -> None:
        """Rewrite the derived files: the best epoch's network, and the curves as text and as a picture."""
        from ..pictures.curves import save_curves

        if best is not None:
            save_tree(self.path / "network.pt", best)
        stats.save(self.path)
        save_curves(stats, self.path / "curves.png")

    def report(self, result: dict, name: str = "result.json") -> None:
        """Write `result`, which identifies its network by SHA-256, as a JSON file."""
        with atomic(self.path / name) as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8", newline="\n")

    def digest(self) -> str:
        """Return the SHA-256 of ``network.pt``."""
        return hashlib.sha256((self.path / "network.pt").read_bytes()).hexdigest()
