"""Test the command line: its list of commands, its errors, its streams."""

import contextlib
import re
import runpy
import signal
import sys

import pytest

from nmnist_helpers import __main__


def test_commands_are_listed_and_an_unknown_one_is_reported(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert __main__.main([]) == 0
    listing = capsys.readouterr().out
    assert all(name in listing for name in __main__.COMMANDS)
    assert __main__.main(["trian"]) == 2
    expected = f"nmnist_helpers: expected a command, one of {', '.join(__main__.COMMANDS)}; found 'trian'"
    assert expected in capsys.readouterr().err
    for name in ("train", "sim2real"):
        with pytest.raises(SystemExit) as end:
            __main__.main([name, "--help"])
        assert end.value.code == 0
        assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize("size", ["", "2"])
def test_an_error_is_reported_whatever_the_environment_says(monkeypatch, capsys, size):
    monkeypatch.setenv("WORLD_SIZE", size)
    assert __main__.main(["trian"]) == 2
    assert "found 'trian'" in capsys.readouterr().err


def test_a_data_folder_that_is_not_there_is_reported(tmp_path, capsys):
    out = tmp_path / "run"
    assert __main__.main(["train", "--data", str(tmp_path / "typo"), "--out", str(out)]) == 1
    assert f"train: --data: expected a folder or an archive, found no {tmp_path / 'typo'}" in capsys.readouterr().err
    assert not out.exists()


def test_commands_run_without_standard_streams(monkeypatch):
    """They are None if they were closed before the start (``>&-``), and in pythonw."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr("nmnist_helpers.lava.main", lambda options: print("a line"))
    before = signal.getsignal(signal.SIGTERM)
    assert __main__.main(["lava"]) == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_log_file_shows_each_line_at_once(tmp_path):
    with open(tmp_path / "log", "w") as log, contextlib.redirect_stdout(log):
        __main__.main([])
        assert "COMMAND --help lists the options" in (tmp_path / "log").read_text()


@pytest.mark.filterwarnings("ignore:.* found in sys.modules")
@pytest.mark.parametrize("name", ["calibrate", "download", "mnist", "sim2real", "train"])
def test_commands_of_the_first_version_still_work(monkeypatch, capsys, name):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"nmnist_helpers.{name}", run_name="__main__", alter_sys=True)
    assert end.value.code == 0
    assert "usage: python -m nmnist_helpers" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.* found in sys.modules")
@pytest.mark.parametrize("name", ["calibrate", "download", "mnist"])
def test_commands_of_the_first_version_report_an_error_in_one_line(monkeypatch, capsys, tmp_path, name):
    (tmp_path / "file").write_bytes(b"")
    option = ["--recordings"] if name == "calibrate" else []
    monkeypatch.setattr(sys, "argv", [name, *option, str(tmp_path / "file" / "folder")])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"nmnist_helpers.{name}", run_name="__main__", alter_sys=True)
    assert end.value.code == 1
    assert re.fullmatch(r"python -m nmnist_helpers \w+: .*folder.*\n", capsys.readouterr().err)
