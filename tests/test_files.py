"""Test that files appear complete or not at all, even with a full disk, a killed run or a link."""

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nmnist_helpers import files
from nmnist_helpers.files import atomic, locked


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic(path) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"

    def interrupted():
        with atomic(path) as temporary:
            temporary.write_text("two")
            raise KeyboardInterrupt

    pytest.raises(KeyboardInterrupt, interrupted)
    assert path.read_text() == "one"
    assert names(path.parent) == ["a.txt"]


def test_threads_cannot_change_the_rights_of_a_file(tmp_path):
    # The umask belongs to the whole process and can only be read by setting it, which affects all threads.
    before = os.umask(0o027)
    try:
        opened = []

        def plain():
            for i in range(300):
                with open(tmp_path / f"plain-{i}", "w") as file:
                    opened.append(os.fstat(file.fileno()).st_mode & 0o777)

        thread = threading.Thread(target=plain)
        thread.start()
        while thread.is_alive():
            with atomic(tmp_path / "a", sync=False):
                pass
        thread.join()
        assert set(opened) == {0o640}
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_a_link_stays_and_what_it_names_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.bin").symlink_to(tmp_path / "real" / "a.bin")
    with atomic(tmp_path / "link.bin") as temporary:
        temporary.write_bytes(b"x")
    assert (tmp_path / "link.bin").is_symlink()
    assert (tmp_path / "real" / "a.bin").read_bytes() == b"x"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named(tmp_path, number, monkeypatch):
    def full():
        with atomic(tmp_path / "a.bin"):
            raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=r"a\.bin: disk full \(.* MB free in ") as caught:
        full()
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.setattr(files, "_free", lambda folder: 100)

    def torch_says_it_so():
        with atomic(tmp_path / "a.bin"):
            raise RuntimeError("PytorchStreamWriter failed writing file")

    with pytest.raises(OSError, match=r"a\.bin: disk full"):
        torch_says_it_so()
    assert names(tmp_path) == []


def test_other_errors_keep_their_words(tmp_path):
    def fails(error):
        with atomic(tmp_path / "a.bin"):
            raise error

    with pytest.raises(PermissionError, match="Permission denied: '/other/file'"):
        fails(PermissionError(errno.EACCES, "Permission denied", "/other/file"))
    with pytest.raises(RuntimeError, match="^shape$"):
        fails(RuntimeError("shape"))


def test_places_where_no_file_can_be(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(OSError, match=r"a\.bin: expected the name of a file in a folder"),
        atomic(tmp_path / "file" / "a.bin"),
    ):
        pass
    with pytest.raises(IsADirectoryError, match="expected the name of a file, found a folder"), atomic(tmp_path):
        pass

    def refuse(*_):
        raise PermissionError(errno.EROFS, "Read-only file system", str(tmp_path / ".b.tmp.bin"))

    monkeypatch.setattr(files.os, "open", refuse)
    with (
        pytest.raises(PermissionError, match=r"b\.bin: expected a folder that can be written, found: Read-only"),
        atomic(tmp_path / "b.bin"),
    ):
        pass


def test_the_disk_has_the_file_before_it_takes_its_name(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda handle: (done.append("sync"), fsync(handle)))
    monkeypatch.setattr(files.os, "replace", lambda *a: (done.append("rename"), replace(*a)))
    with atomic(tmp_path / "a"):
        pass
    assert done == ["sync", "rename", "sync"] if os.name != "nt" else ["sync", "rename"]


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import types
bare = types.ModuleType("nmnist_helpers"); bare.__path__ = [sys.argv[1] + "/nmnist_helpers"]
sys.modules["nmnist_helpers"] = bare
from nmnist_helpers.files import atomic
with atomic(sys.argv[2]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="on Windows, only the age of a file decides")
def test_what_a_killed_run_left_is_swept_at_the_next_write(tmp_path):
    here = Path(files.__file__).parents[1]
    subprocess.run([sys.executable, "-c", KILLED, str(here), str(tmp_path / "a.pt")])
    assert len(names(tmp_path)) == 1
    # Recent files of another machine, files of a running process and unrelated files stay.
    young, old = (tmp_path / f".b.0000000{i}-1-abcd.tmp.pt" for i in (1, 2))
    mine = tmp_path / f".c.{files._MACHINE}-{os.getpid()}-abcd.tmp.pt"
    for file in (young, old, mine, tmp_path / ".hidden.tmp"):
        file.write_bytes(b"")
    os.utime(old, (time.time() - 2 * files.ABANDONED,) * 2)
    with atomic(tmp_path / "a.pt") as temporary:
        temporary.write_text("whole")
    assert names(tmp_path) == sorted([young.name, mine.name, ".hidden.tmp", "a.pt"])


def test_a_lock_is_waited_for_and_said_once(tmp_path, capsys):
    order = []

    def second():
        with locked(tmp_path / "a.lock", "that writes a"):
            order.append("second")

    with locked(tmp_path / "a.lock"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert capsys.readouterr().out == "waiting for another process that writes a\n"
