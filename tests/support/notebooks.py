"""Run notebooks, mark them with the hash of the code that made their outputs, and find faults in the outputs.

``python tests/support/notebooks.py notebooks/*.ipynb`` runs notebooks in place, each in a clean kernel, and marks them.
With ``--mark``, it only marks them, for example after a run in JupyterLab. Marking also folds the solutions.
"""

import argparse
import hashlib
import re
from pathlib import Path

import nbformat

#: Metadata of a solution, with which JupyterLab folds its code and its outputs. Running the cell unfolds the outputs.
FOLDED = {"source_hidden": True, "outputs_hidden": True}
#: The kernel that every notebook names as JupyterLab names it; another name would mark an opened notebook as changed.
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
MAX_LINES = 50  # in a text output
LOCAL_PATH = re.compile(r"(?<![\w.:/])(/(?:home|root|Users|tmp|work|mnt|opt|var)/\w[^\s'\"<]*|[A-Z]:\\Users\\\S*)")
REPR = re.compile(r"<[^<>\n]*(?: at 0x[0-9a-f]+|\bobject\b)[^<>\n]*>")
WIDGET = "application/vnd.jupyter.widget-view+json"
WARNING = re.compile(r"^Traceback \(most recent|\b\w*Warning: ", re.MULTILINE)


def code_cells(notebook) -> list:
    """Return the code cells that are not empty."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def source_hash(notebook) -> str:
    """Return a hash of all code cells, in order. Markdown cells may change without a new run."""
    digest = hashlib.sha256()
    for cell in code_cells(notebook):
        digest.update(f"{len(cell.source)}\0{cell.source}".encode())
    return digest.hexdigest()[:16]


def is_solution(cell) -> bool:
    return "solution" in cell.metadata.get("tags", [])


def mark(notebook) -> None:
    """Store the hash of the source and the kernel, remove execution times and widgets, and fold the solutions.

    A widget shows nothing without a kernel.
    """
    notebook.metadata.pop("widgets", None)
    notebook.metadata["kernelspec"] = dict(KERNEL)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            if is_solution(cell):
                cell.metadata["jupyter"] = dict(FOLDED)
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    notebook.metadata["nmnist"] = {"source_hash": source_hash(notebook)}


def texts(output) -> list[str]:
    """Return the text that a reader of an output sees: `text/plain` only if there is no richer form."""
    if output.output_type == "stream":
        return [output.text]
    data = output.get("data", {})
    if any(kind.startswith("image/") for kind in data):
        return []
    rich = data.get("text/html", data.get("text/markdown"))
    return [data.get("text/plain", "") if rich is None else re.sub(r"base64,[\w+/=\s]+|<[^>]*>", " ", rich)]


def count_pictures_without_alt(output) -> int:
    """Return the number of pictures in an output that have no alternative text; see `image_tag`."""
    data = output.get("data", {})
    if "text/html" not in data:
        return int(any(kind.startswith("image/") for kind in data))
    return sum(not re.search(r'\balt="[^"]*\w[^"]*"', tag) for tag in re.findall(r"<img\b[^>]*>", data["text/html"]))


def faults(notebook) -> list[str]:
    """Return the faults of a committed notebook, one line each."""
    found = []
    if notebook.metadata.get("nmnist", {}).get("source_hash") != source_hash(notebook):
        found.append("the outputs are not marked with the hash of this source; run tests/support/notebooks.py")
    if (kernel := notebook.metadata.get("kernelspec")) != KERNEL:
        found.append(f"expected the kernel {KERNEL['display_name']!r}, found {kernel}")
    if "widgets" in notebook.metadata:
        found.append("expected no saved widgets, found some")
    cells = code_cells(notebook)
    counts = [cell.execution_count for cell in cells]
    if counts != list(range(1, len(cells) + 1)):
        found.append(f"expected every cell run once, in order, in a clean kernel; found the counts {counts}")
    for number, cell in enumerate(cells, 1):
        if is_solution(cell) and cell.metadata.get("jupyter") != FOLDED:
            found.append(f"cell {number}: expected a solution with its code and its outputs folded, found one in sight")
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"cell {number}: expected no errors, found {output.get('ename') or output.text[:200]!r}")
                continue
            if WIDGET in output.get("data", {}):
                found.append(f"cell {number}: a widget, which shows nothing without a kernel")
            if count_pictures_without_alt(output):
                found.append(f"cell {number}: a picture without an alternative text; show figures with pictures.show")
            for text in texts(output):
                for name, pattern in (("a local path", LOCAL_PATH), ("a repr", REPR), ("a warning", WARNING)):
                    if match := pattern.search(text):
                        found.append(f"cell {number}: {name}, {match[0]!r}")
                if output.get("data", {}).get("text/html") is None and text.count("\n") > MAX_LINES:
                    found.append(f"cell {number}: expected {MAX_LINES} lines or fewer, found {text.count(chr(10))}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--mark", action="store_true", help="mark the notebooks without running them")
    arguments = parser.parse_args()
    for path in arguments.notebooks:
        notebook = nbformat.read(path, as_version=4)
        if not arguments.mark:
            from nbclient import NotebookClient

            options = {"coalesce_streams": True, "resources": {"metadata": {"path": str(path.parent)}}}
            NotebookClient(notebook, timeout=3600, **options).execute()
        mark(notebook)
        nbformat.write(notebook, path)
        print("\n".join([f"{path}: done", *faults(notebook)]))


if __name__ == "__main__":
    main()
