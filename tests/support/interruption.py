"""Trainings that are interrupted between two epochs."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nmnist_helpers.train.loop import Loop


@contextmanager
def interrupted_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.ExceptionInfo]:
    """Interrupt the training within the ``with`` block after some epochs; fail if it ends before."""
    train_epoch = Loop.train_epoch

    def train_or_interrupt(loop):
        if loop.progress.epoch == epochs:
            raise KeyboardInterrupt
        train_epoch(loop)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "train_epoch", train_or_interrupt)
        with pytest.raises(KeyboardInterrupt) as stop:
            yield stop
