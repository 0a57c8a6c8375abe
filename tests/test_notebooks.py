"""Every notebook runs from a clean kernel, on a copy, so that the committed outputs and files stay as they are."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def run(notebook: Path, folder: Path, **environment: str) -> None:
    """Execute a copy of `notebook` in `folder` with nbmake."""
    folder.mkdir()
    copy = Path(shutil.copy(notebook, folder))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-c", os.devnull]
    done = subprocess.run(
        [*command, "--rootdir", str(folder), "--nbmake", "--nbmake-timeout=600", str(copy)],
        cwd=folder, env=os.environ | environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_to_its_end(notebook, tmp_path):
    run(notebook, tmp_path / "elsewhere")
