"""Python processes that tests start."""

import os
import subprocess
import sys


def python(code: str, options: tuple[str, ...] = (), **environment: str | None) -> tuple[str, str]:
    """Output and errors of a Python process that must end well.

    `environment` is added to that of the tests, and what it names with None is left out.
    """
    given = os.environ | environment
    done = subprocess.run(
        [sys.executable, *options, "-c", code],
        env={name: value for name, value in given.items() if value is not None},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip(), done.stderr
