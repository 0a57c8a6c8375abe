"""Test what type checkers say about programs that use the package."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nmnist_helpers

RIGHT = """
import torch
import nmnist_helpers as slayer
from nmnist_helpers.io import Event

event = Event([1], [1], [0], [0.0])
print(event.x.max(), event.y.max())
stats = slayer.utils.LearningStats()
stats.plot().savefig("curves.png")
stats.plot(figures=(1, 2))[0].savefig("loss.png")
slayer.utils.time.shift(torch.zeros(1, 2, 5), [1, 2])
print(slayer.netx.load("network.net"), slayer.Network())
"""
WRONG = """
import nmnist_helpers as slayer
slayer.Netwrok()
slayer.netx.laod("network.net")
slayer.loss.SpikeRte(0.2, 0.03)
slayer.axon.Dely()
slayer.utils.LearningSats()
"""


@pytest.mark.slow
def test_type_checkers_accept_programs_and_find_misspelt_names(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text(WRONG)
    where = {"MYPYPATH": str(Path(nmnist_helpers.__file__).parents[1])}
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports", "right.py", "wrong.py"],
        cwd=tmp_path, env=os.environ | where, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    errors = re.findall(r"^(\w+\.py):(\d+): error: Module has no attribute", found.stdout, re.M)
    assert errors == [("wrong.py", str(line)) for line in range(3, 8)], found.stdout + found.stderr
    assert "right.py" not in found.stdout
