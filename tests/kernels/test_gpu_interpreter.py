"""Run the tests in `gpu_twin` under Triton's interpreter, in a separate process and without a GPU."""

import importlib.util
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent / "gpu_twin"
MIN_PASSED = 60  # with fewer passed tests, some were not found


def major_minor(version_string: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version_string)[:2])


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.slow
def test_the_triton_twin_agrees_under_the_interpreter():
    if major_minor(version("triton")) < (3, 7) and major_minor(np.__version__) >= (2, 4):
        pytest.skip(f"the interpreter of Triton {version('triton')} does not run with NumPy {np.__version__}")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", str(FOLDER), "-q", "-x", "-p", "no:cacheprovider", "-n", "0"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=FOLDER.parents[2],
        capture_output=True,
        text=True,
    )
    print(run.stdout)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed
    assert int(passed[1]) >= MIN_PASSED
    assert "skipped" not in run.stdout.splitlines()[-1]
