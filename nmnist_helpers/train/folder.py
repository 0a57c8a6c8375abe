"""The folder of a run: one run at a time, one checkpoint that holds everything, and the files made from it."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..checkpoint import load_tree, save_tree
from ..files import atomic, named, sweep

CHECKPOINT = "checkpoint.pt"
#: What is made from the checkpoint, in the order in which an old run is removed: what tells of weights goes first.
DERIVED = ("result.json", "network.pt", "loss.txt", "accuracy.txt", "curves.png")


class Folder:
    """Where a run keeps its files.

    Parameters
    ----------
    path : path-like
        Made when it is held.

    Attributes
    ----------
    kept : int or None
        Epochs in the checkpoint that this process has written.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path).expanduser()
        self.checkpoint = self.path / CHECKPOINT
        self.kept: int | None = None

    def refuse(self, resume: bool, overwrite: bool) -> None:
        """Refuse a run that does not fit what is in the folder.

        Parameters
        ----------
        resume, overwrite : bool
            What to do with the run that the folder holds: go on with it, or replace it.

        Raises
        ------
        FileExistsError
            If the folder holds a run and neither was asked for.
        FileNotFoundError
            If there is nothing to go on with.
        """
        found = [name for name in (CHECKPOINT, *DERIVED) if (self.path / name).exists()]
        if resume and CHECKPOINT not in found:
            raise FileNotFoundError(f"--resume: expected {self.checkpoint}, found nothing there")
        if found and not (resume or overwrite):
            raise FileExistsError(
                f"{self.path}: expected a folder without a run, found {', '.join(found)}: go on with that run"
                " (--resume), replace it (--overwrite), or choose another folder (--out)"
            )

    @contextmanager
    def hold(self, resume: bool, overwrite: bool, room: int) -> Iterator[None]:
        """Keep every other run out, and see before the first epoch that this one can write.

        Parameters
        ----------
        resume, overwrite : bool
            As in `refuse`, which is asked again.
        room : int
            Bytes that the run needs.

        Raises
        ------
        FileExistsError
            If another run writes there now.
        OSError
            Naming the file, if the disk is full or the folder cannot be written.
        """
        with named(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            with named(self.path / ".lock"):
                lock.acquire()
        except Timeout:
            busy = f"{self.path}: another run writes there now; wait for it, or choose another --out"
            raise FileExistsError(busy) from None
        except NotImplementedError:
            pass  # a file system without locks: to go on is better than to refuse every run
        try:
            self.refuse(resume, overwrite)
            sweep(self.path)
            self._rehearse(room)
            if overwrite:
                self.remove(*DERIVED)
            yield
        finally:
            lock.release()

    def _rehearse(self, room: int) -> None:
        """Write as many bytes as the run will, and remove them."""
        with named(self.checkpoint), tempfile.TemporaryFile(dir=self.path) as file:
            for _ in range(0, room, 1 << 20):
                file.write(b"\1" * (1 << 20))
            file.flush()
            os.fsync(file.fileno())

    def remove(self, *names: str) -> None:
        """Remove files of the run."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def commit(self, tree: dict) -> None:
        """Write the checkpoint: the one file that counts."""
        save_tree(self.checkpoint, tree)
        self.kept = tree["epoch"]

    def how_to_go_on(self) -> str:
        """What a run that ends early says."""
        if self.kept is None:
            return "nothing of this run was written"
        return f"epochs kept: {self.kept}; to go on: python -m nmnist_helpers train --out {self.path} --resume"

    def load(self) -> dict:
        """Read the checkpoint.

        Raises
        ------
        CheckpointError
            If it is damaged.
        """
        self.refuse(resume=True, overwrite=False)
        return load_tree(self.checkpoint)

    def derive(self, best: dict | None, stats) -> None:
        """Make the other files anew: the best epoch's network, the curves as text and as a picture."""
        import matplotlib.pyplot as plt

        if best is not None:
            save_tree(self.path / "network.pt", best)
        stats.save(self.path)
        plt.close(stats.plot(path=self.path / "curves.png"))

    def report(self, result: dict, name: str = "result.json") -> None:
        """Write a report, which names the network that it describes by its SHA-256."""
        with atomic(self.path / name) as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n")

    def digest(self) -> str:
        """SHA-256 of ``network.pt``."""
        return hashlib.sha256((self.path / "network.pt").read_bytes()).hexdigest()
