"""The commands of the package: ``python -m nmnist_helpers COMMAND``."""

import importlib
import os
import signal
import sys
import threading
from collections.abc import Sequence

#: Command: (module whose `main` runs it, one-line description).
COMMANDS = {
    "train": ("train", "train the network of lava-dl's tutorial; validation chooses the best epoch"),
    "sim2real": ("sim2real", "train on simulated digits, test on real recordings"),
    "download": ("data.download", "fetch and check the official N-MNIST archives (1.2 GB)"),
    "mnist": ("data.mnist", "fetch MNIST, the digits that the simulated camera records (11 MB)"),
    "camera": ("calibrate", "compare simulated with real recordings of the same digits"),
    "lava": ("lava", "list the names of lava-dl with their counterparts here"),
}
PROGRAM = "python -m nmnist_helpers"


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM, so that files and locks are closed as they are after Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command named first in `argv`; list the commands if there is none.

    Returns
    -------
    int
        Exit status: 0 on success; 1 after an error, which is reported in one line; 2 for an unknown command; 130
        after Ctrl-C; 141 if the output is a pipe that was closed; 143 after SIGTERM.
    """
    for stream_name in ("stdout", "stderr"):
        if getattr(sys, stream_name) is None:  # it was closed before Python started
            setattr(sys, stream_name, open(os.devnull, "w", encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        # On Windows, a file or a pipe may lack characters that occur in a path: print their codes instead of failing.
        if hasattr(stream, "reconfigure"):
            # Complete lines are written at once, so that a log file shows them and a kill does not lose them.
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    name, *options = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        listing = "\n".join(f"  {command:{width}s}  {text}" for command, (_, text) in COMMANDS.items())
        print(f"usage: {PROGRAM} COMMAND [OPTIONS]\n\ncommands:\n{listing}\n")
        print(f"{PROGRAM} COMMAND --help lists the options of a command.")
        return 0
    if name not in COMMANDS:
        return _fail(f"expected a command, one of {', '.join(COMMANDS)}; found {name!r}", 2)
    before = None
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, _terminate)
    try:
        importlib.import_module(f".{COMMANDS[name][0]}", "nmnist_helpers").main(options)
        sys.stdout.flush()  # a pipe that was closed is noticed here, not after the end
    except BrokenPipeError:  # who reads the output has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt as stop:
        return _fail(str(stop) or "stopped", 143 if isinstance(stop, Terminated) else 130, name)
    except (OSError, ValueError, FloatingPointError) as error:
        return _fail(str(error), 1, name)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    return 0


def _terminate(*_) -> None:
    raise Terminated


def _fail(line: str, status: int, command: str = "") -> int:
    rank = os.environ.get("RANK") if os.environ.get("WORLD_SIZE", "1") != "1" else None
    process = f" (process {rank})" if rank else ""
    print(f"{PROGRAM}{process}{command and ' ' + command}: {line}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
