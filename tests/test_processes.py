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
@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        (None, {"cpu.max": "150000 100000"}, 2),  # not Linux's /proc
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": ""}, None),
        ("0::/", {}, None),
        ("0::/user/kernel", {"user/kernel/cpu.max": "max 100000", "user/cpu.max": "300000 100000"}, 3),
        ("0::/user/kernel", {"user/kernel/cpu.max": "100000 100000", "user/cpu.max": "300000 100000"}, 1),
        ("0::/outside/a:b", {"cpu.max": "200000 100000"}, 2),
        ("4:pids:/\n3:cpu,cpuacct:/a\n0::/", {"cpu/a/cpu.cfs_quota_us": "4000", "cpu/a/cpu.cfs_period_us": "1000"}, 4),
        ("3:cpu:/a", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
    ],
)  # fmt: skip
def test_a_quota_of_processors_is_that_of_any_control_group(groups, files, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(processes, "GROUPS", tmp_path / "groups")
    if groups is not None:
        (tmp_path / "groups").write_text(groups + "\n")
    for name, content in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert processes.quota_of_processors() == expected


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
