"""Give the tests of training a few recordings and a finished run."""

import pytest
from support.runs import STATEFUL, start, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), 0)


@pytest.fixture(autouse=True)
def environment(monkeypatch, data):
    monkeypatch.setenv("NMNIST_DATA", str(data))
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """Return the folder of a finished run of three epochs; tests that change it use `run_copy`."""
    out = tmp_path_factory.mktemp("finished") / "run"
    start(out, *STATEFUL, "--epochs", 3, "--data", data)
    return out


@pytest.fixture
def run_copy(finished, tmp_path):
    out = tmp_path / "run_copy"
    out.mkdir()
    for file in finished.iterdir():
        if file.suffix:
            (out / file.name).write_bytes(file.read_bytes())
    return out
