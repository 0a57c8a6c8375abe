"""Test what differs between operating systems, as far as one of them can show it."""

import gc
import io
import os
import re
import sys
from pathlib import Path

import pytest
from numba.core.dispatcher import Dispatcher
from support import fake_nmnist

import nmnist_helpers
from nmnist_helpers import __main__
from nmnist_helpers.jit import compiled
from nmnist_helpers.kernels import cpu  # noqa: F401  # the kernels whose paths are measured

SOURCES = sorted(Path(nmnist_helpers.__file__).parent.rglob("*.py"))
#: A call that reads or writes text without an encoding, whose default differs between systems.
NO_ENCODING = re.compile(r"""(read|write)_text\((?!.*encoding=)|(?<![\w.])open\((?!.*encoding=|.*"\w*\+?b)""")
#: Windows allows 259 characters in a path. The user's name has at most 20 of them.
LONGEST = 259
CACHE_ON_WINDOWS = len(r"C:\Users\12345678901234567890\AppData\Local\nmnist_helpers\Cache\kernels")


def test_text_files_have_an_encoding():
    lines = [(path.name, line) for path in SOURCES for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(name, line) for name, line in lines if NO_ENCODING.search(line)] == []
    for line in ("open(path)", 'open(path, "w")', "file.read_text()", "file.write_text(text)"):
        assert NO_ENCODING.search(line), line


def test_messages_have_only_characters_that_every_console_has():
    assert [path.name for path in SOURCES if not path.read_bytes().isascii()] == []


def test_a_path_that_a_log_file_cannot_hold_is_printed_in_codes(tmp_path, monkeypatch):
    """On Windows, ``... > log.txt`` writes cp1252, which lacks most of the world's letters."""
    root = tmp_path / "\u0142\u00f3d\u017a"
    for split in ("Train", "Test"):
        fake_nmnist.write_folder(root, split, fake_nmnist.make(0, per_digit=1))
    log = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(log, encoding="cp1252"))
    assert __main__.main(["download", str(root)]) == 0
    sys.stdout.flush()
    assert log.getvalue().decode("cp1252").splitlines()[-1].endswith(os.path.join("\\u0142\u00f3d\\u017a", "Test"))


def test_a_path_that_standard_output_cannot_hold_does_not_stop_a_program(tmp_path, monkeypatch):
    root = tmp_path / "\u0142\u00f3d\u017a"
    fake_nmnist.write_folder(root / "Train", "Train", fake_nmnist.make(0, per_digit=1))
    log = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(log, encoding="cp1252"))
    monkeypatch.setattr("nmnist_helpers.data.cache.writable", lambda folder: False)
    nmnist_helpers.NMNISTDataset(root)
    sys.stdout.flush()
    assert "\\u0142\u00f3d\\u017a" in log.getvalue().decode("cp1252")


def test_compiled_code_has_short_paths():
    kernels = [one for one in gc.get_objects() if issubclass(type(one), Dispatcher)]
    caches = [one._cache for one in kernels if one.py_func.__module__.startswith("nmnist_helpers.")]
    caches = [cache for cache in caches if isinstance(cache, compiled._Cache)]
    if not caches:
        pytest.skip("compiled code is not stored here")
    folder = len(compiled.PREFIX) + len(compiled.fingerprint())
    # As Numba names its files: <folder>/<base>.<number>.nbc, and .tmp.<16 digits> while it writes.
    names = {
        cache._impl.filename_base: len(os.path.basename(cache.cache_path)) + len(cache._impl.filename_base)
        for cache in caches
    }
    longest = max(names, key=names.get)
    assert any(name.startswith("tasks.kernels.cpu.") for name in names)
    assert CACHE_ON_WINDOWS + 3 + folder + names[longest] + len(".10.nbc.tmp.") + 16 <= LONGEST, longest
