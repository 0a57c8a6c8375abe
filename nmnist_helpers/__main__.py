"""The commands of the package: ``python -m nmnist_helpers COMMAND``."""

import argparse
import importlib
import sys

#: Command -> (module with a `main`, what it does).
COMMANDS = {
    "train": ("train", "train the tutorial's network and choose the best epoch on validation"),
    "sim2real": ("sim2real", "train on simulated digits, read real recordings"),
    "download": ("data.download", "fetch and check the official N-MNIST archives (1.2 GB)"),
    "mnist": ("data.mnist", "fetch MNIST, the digits that the simulated camera looks at (11 MB)"),
    "lava": ("lava", "print lava-dl's names and what became of them here"),
    "camera": ("calibrate", "compare the simulated camera with real recordings"),
}


def main(argv: list[str] | None = None) -> None:
    """Run the command that `argv` begins with; without one, list them."""
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:{width}s}  {text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m nmnist_helpers",
        description=f"commands:\n{listing}",
        epilog="python -m nmnist_helpers COMMAND --help lists a command's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs="?", choices=COMMANDS, metavar="COMMAND")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="of the command")
    given = parser.parse_args(argv)
    if given.command is None:
        parser.print_help()
        return
    module = importlib.import_module(f".{COMMANDS[given.command][0]}", __package__)
    module.main(given.options)


if __name__ == "__main__":
    main(sys.argv[1:])
