"""Start Python processes for tests."""

import os
import subprocess
import sys


def python(code: str, options: tuple[str, ...] = (), **environment: str | None) -> tuple[str, str]:
    """Run code in a new Python process, assert that it succeeds, and return its standard output and standard error.

    `environment` is added to the tests' environment; variables with the value None are removed.
    """
    variables = os.environ | environment
    done = subprocess.run(
        [sys.executable, *options, "-c", code],
        env={name: value for name, value in variables.items() if value is not None},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip(), done.stderr
