"""Test that files appear complete or not at all, even with a full disk, a killed run or a link."""

import errno
import os
import stat
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from nmnist_helpers import files, paths
from nmnist_helpers.files import atomic
from nmnist_helpers.train.folder import Folder


def file_names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_file_appears_complete_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic(path) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"

    def interrupt():
        with atomic(path) as temporary:
            temporary.write_text("two")
            raise KeyboardInterrupt

    pytest.raises(KeyboardInterrupt, interrupt)
    assert path.read_text() == "one"
    assert file_names(path.parent) == ["a.txt"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_atomic_writes_do_not_change_permissions_in_other_threads(tmp_path):
    # The umask belongs to the whole process and can only be read by setting it, which affects all threads.
    before = os.umask(0o027)
    try:
        permissions = []

        def write_plainly():
            for i in range(300):
                with open(tmp_path / f"plain-{i}", "w") as file:
                    permissions.append(os.fstat(file.fileno()).st_mode & 0o777)

        thread = threading.Thread(target=write_plainly)
        thread.start()
        while thread.is_alive():
            with atomic(tmp_path / "a", sync=False):
                pass
        thread.join()
        assert set(permissions) == {0o640}
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_a_link_is_kept_and_its_target_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    try:
        (tmp_path / "link.bin").symlink_to(tmp_path / "real" / "a.bin")
    except OSError:
        pytest.skip("this account may not make links, as is usual on Windows")
    with atomic(tmp_path / "link.bin") as temporary:
        temporary.write_bytes(b"x")
    assert (tmp_path / "link.bin").is_symlink()
    assert (tmp_path / "real" / "a.bin").read_bytes() == b"x"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_raises_an_error_that_names_the_file(tmp_path, number, monkeypatch):
    def fail():
        with atomic(tmp_path / "a.bin"):
            raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=r"a\.bin: disk full: the file needs more than the .* MB free in ") as caught:
        fail()
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.setattr(files, "_free", lambda folder: 100)

    def fail_as_torch_does():
        with atomic(tmp_path / "a.bin"):
            raise RuntimeError("PytorchStreamWriter failed writing file")

    with pytest.raises(OSError, match=r"a\.bin: disk full"):
        fail_as_torch_does()
    assert file_names(tmp_path) == []


def test_other_errors_keep_their_messages(tmp_path):
    def fail(error):
        with atomic(tmp_path / "a.bin"):
            raise error

    with pytest.raises(PermissionError, match="Permission denied: '/other/file'"):
        fail(PermissionError(errno.EACCES, "Permission denied", "/other/file"))
    with pytest.raises(RuntimeError, match="^shape$"):
        fail(RuntimeError("shape"))
    in_use = PermissionError(errno.EACCES, "The file is being used by another process", str(tmp_path / "a.bin"))
    with pytest.raises(PermissionError, match=r"a\.bin: .*, found: The file is being used by another process$"):
        fail(in_use)


def test_a_temporary_file_that_cannot_be_removed_hides_no_error(tmp_path, monkeypatch):
    """Windows refuses to remove a file that is open or mapped."""

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "The file is being used by another process")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(ValueError, match="^not a recording$"), atomic(tmp_path / "a.bin"):
        raise ValueError("not a recording")


def test_paths_that_cannot_be_written_raise(tmp_path, monkeypatch):
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


def test_a_write_leaves_no_file_open(tmp_path):
    def first_free_handle():
        os.close(handle := os.open(os.devnull, os.O_RDONLY))
        return handle

    before = first_free_handle()
    with atomic(tmp_path / "a"):
        pass
    assert first_free_handle() == before


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    with atomic(tmp_path / ("a" * 251 + ".net")) as temporary:
        temporary.write_text("whole")
    assert [len(name) for name in file_names(tmp_path)] == [255]
    with (
        pytest.raises(OSError, match="a.net: expected the name of a file in a folder, found: "),
        atomic(tmp_path / ("a" * 300 + ".net")),
    ):
        pass


def test_the_file_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda handle: (calls.append("sync"), fsync(handle)))
    monkeypatch.setattr(files.os, "replace", lambda *a: (calls.append("rename"), replace(*a)))
    with atomic(tmp_path / "a"):
        pass
    assert calls == (["sync", "rename"] if os.name == "nt" else ["sync", "rename", "sync"])


KILLED_WRITER = """
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
def test_files_left_by_a_killed_process_are_removed_at_the_next_write(tmp_path):
    root = Path(files.__file__).parents[1]
    subprocess.run([sys.executable, "-c", KILLED_WRITER, str(root), str(tmp_path / "a.pt")])
    assert len(file_names(tmp_path)) == 1
    # Recent files of another machine, files of a running process and unrelated files stay.
    nobody = 1 << 22  # beyond the largest process number of Linux: here, no such process is running
    young, old = (tmp_path / f".b.0000000{i}-{nobody}-abcd.tmp.pt" for i in (1, 2))
    own = tmp_path / f".c.{files._MACHINE}-{os.getpid()}-abcd.tmp.pt"
    diary = tmp_path / ".diary.2026-11-28.tmp.txt"
    for file in (young, old, own, diary, tmp_path / ".hidden.tmp"):
        file.write_bytes(b"")
    for file in (old, diary):
        os.utime(file, (time.time() - 2 * files.ABANDONED,) * 2)
    with atomic(tmp_path / "a.pt") as temporary:
        temporary.write_text("whole")
    assert file_names(tmp_path) == sorted([young.name, own.name, diary.name, ".hidden.tmp", "a.pt"])


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EIO])
def test_a_folder_that_cannot_be_flushed_is_no_error_unless_the_disk_fails(tmp_path, monkeypatch, number):
    fsync = os.fsync

    def refuse(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(handle)

    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(OSError, match="error") if number == errno.EIO else nullcontext(), atomic(tmp_path / "a"):
        pass


def test_a_home_folder_in_which_nobody_may_write_holds_no_cache(tmp_path, monkeypatch):
    usual, temporary = tmp_path / "home" / ".cache" / "a", tmp_path / "temporary"
    (tmp_path / "home").mkdir()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(paths, "user_cache_path", lambda *_, **__: usual)
    monkeypatch.setattr(paths, "_temporary_folder", lambda: temporary)
    assert paths.cache_folder() == usual
    monkeypatch.setattr(paths.os, "access", lambda place, mode: place != tmp_path / "home")
    assert paths.cache_folder() == temporary
    usual.mkdir(parents=True)  # filled by somebody else, to be read
    assert paths.cache_folder() == usual

    def refuse(*_):
        raise PermissionError("a home folder of another user")

    monkeypatch.setattr(paths.Path, "exists", refuse)
    assert paths.cache_folder() == temporary


def test_a_user_without_a_home_folder_has_a_private_temporary_one(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(paths, "user_cache_path", refuse)
    monkeypatch.setattr(paths.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(paths.os, "getuid", lambda: os.stat(tmp_path).st_uid, raising=False)
    paths._temporary_folder.cache_clear()
    folder = paths.cache_folder()
    assert folder.parent == tmp_path
    assert os.name == "nt" or folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(paths.os, "getuid", lambda: -1, raising=False)
    folder.rename(tmp_path / "nmnist_helpers--1")  # another user has made it
    paths._temporary_folder.cache_clear()
    assert paths.cache_folder() not in (folder, tmp_path / "nmnist_helpers--1")
    paths._temporary_folder.cache_clear()


def test_an_unknown_user_in_a_path_is_reported():
    with pytest.raises(ValueError, match=r"^~nobody-has-this-name.x: expected ~ or ~USER with a home folder"):
        Folder(os.path.join("~nobody-has-this-name", "x"))
