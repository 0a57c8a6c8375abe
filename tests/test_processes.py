"""Test what a process knows of itself and shares with others: processors, machine, locks."""

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from nmnist_helpers import processes
from nmnist_helpers.files import _MACHINE
from nmnist_helpers.processes import locked
from nmnist_helpers.train.folder import Folder


def test_waiting_for_a_lock_prints_one_line(tmp_path, capsys):
    order = []

    def wait_for_lock():
        with locked(tmp_path / "a.lock", "that writes a"):
            order.append("second")

    with locked(tmp_path / "a.lock"):
        thread = threading.Thread(target=wait_for_lock)
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert capsys.readouterr().out == "waiting for another process that writes a\n"


@pytest.mark.skipif(not os.path.exists("/proc/sys/kernel/random/boot_id"), reason="this system has no such number")
def test_two_machines_of_the_same_name_are_told_apart(monkeypatch):
    assert processes.identify_machine() == _MACHINE
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "another machine")
    assert processes.identify_machine() != _MACHINE


@pytest.mark.skipif(os.name == "nt", reason="Windows has locks of another kind")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
@pytest.mark.parametrize("lock", [lambda path: locked(path / "a.lock"), lambda path: Folder(path).locked()])
def test_a_file_system_without_locks_is_used_without(tmp_path, monkeypatch, lock, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with lock(tmp_path):
        pass
