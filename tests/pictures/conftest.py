"""Draw without a window, and close the figures of each test."""

import matplotlib
import pytest

matplotlib.use("agg")
from matplotlib import pyplot as plt  # noqa: E402


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")
