"""The logs of a training as text files, with one line per epoch and one column per part of the data."""

import math
from pathlib import Path

from ..files import atomic

#: Attribute of `LearningStats`: its name in printed lines and at the head of a column.
PARTS = {"training": "Train", "validation": "Valid", "testing": "Test"}


def write_log(file: Path, columns: list[list[float | None]]) -> None:
    """Write one column per part of the data, in full precision, with ``nan`` for a missing number."""
    rows = ["# " + " ".join(f"{head:>22s}" for head in PARTS.values())[2:]]
    for row in zip(*columns, strict=True):
        rows.append(" ".join(f"{'nan' if value is None else repr(float(value)):>22s}" for value in row))
    with atomic(file) as temporary:
        temporary.write_text("\n".join(rows) + "\n", encoding="ascii", newline="\n")


def length_of(columns: dict[str, list]) -> int:
    """Return the number of epochs in the columns of a log."""
    return len(next(iter(columns.values()), []))


def read_log(file: Path) -> dict[str, list[float | None]]:
    """Return the columns of a log by part of the data, with None for a missing number."""
    if not file.exists():
        raise FileNotFoundError(f"{file}: expected the log of a training, found none")
    try:
        text = file.read_text(encoding="ascii")
    except UnicodeDecodeError:
        raise ValueError(f"{file}: expected ASCII text, found other bytes") from None
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    parts = {name: part for part, name in PARTS.items()}
    heads = [word for word in (lines[0][1] if lines else []) if word != "#"]
    if not lines or not lines[0][1][0].startswith("#") or len(set(heads)) < len(heads) or not set(heads) <= set(parts):
        raise ValueError(
            f"{file}: expected a first line like '# {' '.join(parts)}', found {text[:60].splitlines()[:1]}"
        )
    columns: dict[str, list[float | None]] = {parts[head]: [] for head in heads}
    for number, words in lines[1:]:
        try:
            values = [float(word) for word in words]
        except ValueError:
            values = []
        if len(values) != len(heads):
            raise ValueError(f"{file}, line {number}: expected {len(heads)} numbers, found {' '.join(words)!r}")
        for column, value in zip(columns.values(), values, strict=True):
            column.append(None if math.isnan(value) else value)
    return columns
