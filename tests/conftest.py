"""Give every test folders of its own: the user's home and caches and the checkout are never changed."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
# When imported, Jupyter's jsonschema builds a parser for web addresses, which takes two seconds. No test needs it.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
# Keep compiled modules (git ignores them) whatever the environment says. Otherwise each process that a test starts
# would compile the package again, and each worker the tests.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

#: Variable with the folder of MNIST's files for the tests. `NMNIST_MNIST` is unset: with it, tests would simulate all.
TEST_MNIST = "NMNIST_TEST_MNIST"
#: Variable with the home folder of one test run, shared by its workers and by all processes that tests start.
TEST_HOME = "NMNIST_TEST_HOME"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--notebooks",
        choices=("once", "all"),
        default="once",
        help="run each notebook once, with the situations taken in turn, or in all situations: with recordings, without"
        " any data, in another working directory",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Point all variables that name a home, cache or output folder to a temporary one."""
    if TEST_HOME in os.environ:
        return
    if "NMNIST_MNIST" in os.environ:
        os.environ[TEST_MNIST] = os.environ.pop("NMNIST_MNIST")
    home = tempfile.mkdtemp(prefix="nmnist-tests-")
    kept = ROOT / ".pytest_cache"  # keep compiled kernels and font lists; git ignores this folder
    os.environ |= {
        TEST_HOME: home,
        "HOME": home,
        "USERPROFILE": home,
        "XDG_CACHE_HOME": f"{home}/.cache",
        "XDG_CONFIG_HOME": f"{home}/.config",
        "XDG_DATA_HOME": f"{home}/.local/share",
        "NMNIST_HOME": f"{home}/project",
        "MPLCONFIGDIR": str(kept / "matplotlib"),
        "NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR", str(kept / "numba")),
        "MPLBACKEND": os.environ.get("MPLBACKEND", "agg"),
    }
    if config.getoption("numprocesses", None):  # see `_one_thread_per_worker`
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads sleep instead of spinning
    if (ROOT / "data").is_dir():
        os.environ.setdefault("NMNIST_DATA", str(ROOT / "data"))
    project = Path(home, "project")
    for folder in ("Trained", "gifs"):
        shutil.copytree(ROOT / folder, project / folder)
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their argument. Written out they are unreadable, and they may differ between workers."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the notebooks first: a long one at the end would keep one worker busy while the others wait."""
    items.sort(key=lambda item: "situation" not in getattr(item, "fixturenames", ()))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that need a GPU if there is none, and tests in a browser unless ``-m`` selects them."""
    if item.get_closest_marker("browser") and "browser" not in item.config.option.markexpr:
        pytest.skip("takes a minute or two for each notebook; to run it: pytest -m browser")
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")


@pytest.fixture(scope="session", autouse=True)
def _one_thread_per_worker():
    """Give each worker one thread, because the threads of workers that share a core wait for each other."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        import numba

        numba.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed_torch():
    """Give every test the same random numbers in every run."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def few_digits(monkeypatch, tmp_path):
    """Simulate 64 bars per part instead of thousands of digits, which would take long; cache them for this test."""

    def bars(train: bool):
        labels = np.arange(64) % 10
        images = np.zeros((64, 28, 28), np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[4:24, 4 + 2 * label : 8 + 2 * label] = 255
        return images, labels, np.arange(64) * 2 + (1 if train else 2)

    monkeypatch.setattr("nmnist_helpers.camera.digits.load_digits", bars)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
