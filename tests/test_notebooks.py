"""Run copies of the notebooks in a clean kernel, and test that their committed outputs are complete and readable."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("nbmake", reason="nbmake is not installed")
import nbformat  # noqa: E402
from nbformat import v4  # noqa: E402
from support import notebooks  # noqa: E402

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
EACH_NOTEBOOK = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
MAX_BYTES = 10_000_000  # of all notebooks together
MAX_CHARACTERS = 118  # in a line of code; JupyterLab gives longer ones a scroll bar on a small screen
#: Folders in Trained/ with a reader's own runs, which are not part of the project.
OWN_RUNS = shutil.ignore_patterns("long", "mine", "real")


def situations(all_of_them: bool) -> list:
    """Return pairs of notebook and situation: one situation per notebook, in turn, or all situations for each."""
    if {"NMNIST_DATA", "NMNIST_TEST_MNIST"} & set(os.environ):
        names = ["recordings", "no data", "another folder"]
    else:
        names = ["no data", "another folder"]  # neither of them has data
    chosen = [names if all_of_them else [names[number % len(names)]] for number in range(len(NOTEBOOKS))]
    return [
        pytest.param(notebook, name, id=f"{notebook.stem}-{name}")
        for notebook, each in zip(NOTEBOOKS, chosen, strict=True)
        for name in each
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "situation" in metafunc.fixturenames:
        metafunc.parametrize("notebook, situation", situations(metafunc.config.getoption("notebooks") == "all"))


def run(notebook: Path, folder: Path, data: bool = True, home: Path | None = None) -> subprocess.CompletedProcess:
    """Run a copy of `notebook` in `folder` with nbmake, either with the recordings or without any data."""
    # A notebook must not write to files that another one reads at the same time.
    home = folder.with_name("home") if home is None else home
    for part in ("Trained", "gifs"):
        shutil.copytree(Path(__file__).parents[1] / part, home / part, ignore=OWN_RUNS, dirs_exist_ok=True)
    # One thread per worker of the suite, because two threads on one core wait for each other most of the time.
    environment = os.environ | {"NMNIST_HOME": str(home), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    if not data:
        environment.pop("NMNIST_DATA", None)
    elif "NMNIST_TEST_MNIST" in environment:
        environment["NMNIST_MNIST"] = environment["NMNIST_TEST_MNIST"]
    folder.mkdir(parents=True)
    copy = Path(shutil.copy(notebook, folder))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-c", os.devnull]
    return subprocess.run(
        [*command, "--rootdir", str(folder), "--nbmake", "--nbmake-timeout=600", str(copy)],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_notebook_runs_to_its_end(notebook, situation, tmp_path):
    """The notebook runs in the course's folder `notebooks`, with or without recordings, or in an unrelated folder."""
    course = tmp_path / "course"
    folder = tmp_path / "elsewhere" if situation == "another folder" else course / "notebooks"
    done = run(notebook, folder, situation != "no data", course)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.parametrize("data", ["NMNIST_DATA", "NMNIST_TEST_MNIST", None])
def test_every_notebook_runs_and_every_situation_occurs(monkeypatch, data):
    for name in ("NMNIST_DATA", "NMNIST_TEST_MNIST"):
        monkeypatch.delenv(name, raising=False)
    if data:
        monkeypatch.setenv(data, "here")
    names = {"no data", "another folder"} | ({"recordings"} if data else set())
    once = [pair.values for pair in situations(False)]
    assert [notebook for notebook, _ in once] == NOTEBOOKS
    assert {name for _, name in once} == names
    assert {pair.values for pair in situations(True)} == {(notebook, name) for notebook in NOTEBOOKS for name in names}


@pytest.mark.slow
def test_a_run_has_its_environment_and_reports_a_failure(tmp_path, monkeypatch):
    monkeypatch.setenv("NMNIST_DATA", "recordings")
    monkeypatch.setenv("NMNIST_TEST_MNIST", "mnist")
    code = "import os\nfound = os.getenv('NMNIST_DATA'), os.getenv('NMNIST_MNIST'), os.path.basename(os.getcwd())\n"
    code += "assert found == ('recordings', 'mnist', 'with'), f'found {found}'"
    notebook = tmp_path / "a.ipynb"
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(code)]), notebook)
    before = notebook.read_bytes()
    assert run(notebook, tmp_path / "with").returncode == 0
    without = run(notebook, tmp_path / "without", data=False)
    assert without.returncode == 1
    assert "found (None, None, 'without')" in without.stdout
    assert notebook.read_bytes() == before


@EACH_NOTEBOOK
def test_committed_notebooks_have_no_faults(notebook):
    found = notebooks.faults(nbformat.read(notebook, as_version=4))
    assert not found, "\n".join([notebook.name, *found])


@EACH_NOTEBOOK
def test_code_needs_no_scroll_bar(notebook):
    cells = enumerate(nbformat.read(notebook, as_version=4).cells)
    lines = [(number, line) for number, cell in cells if cell.cell_type == "code" for line in cell.source.splitlines()]
    assert not [(number, line) for number, line in lines if len(line) > MAX_CHARACTERS]


def test_notebooks_are_small_files():
    assert sum(path.stat().st_size for path in NOTEBOOKS) < MAX_BYTES


NO_ALT = "a picture without an alternative text; show figures with pictures.show"


def stream(text, name="stdout"):
    return v4.new_output("stream", text=text, name=name)


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        (stream("68 % of 1,000 < 1e-3, gifs/a.gif, http://host/home/x, <- here"), None),
        (v4.new_output("display_data", {"text/html": '<td><img src="" alt="a 3">', "image/png": ""}), None),
        (v4.new_output("display_data", {"image/png": "", "text/plain": "<Figure object at 0x7f>"}), NO_ALT),
        (v4.new_output("display_data", {"text/html": '<img alt="a 3" src=""><img src="" alt=" ">'}), NO_ALT),
        (v4.new_output("execute_result", {"text/html": "<td>1</td>", "text/plain": "1\n" * 99}), None),
        (v4.new_output("execute_result", {"text/markdown": "| a |", "text/plain": "<a.B object>"}), None),
        (v4.new_output("execute_result", {"text/plain": "<a.B at 0x7f01>"}), "a repr, '<a.B at 0x7f01>'"),
        (v4.new_output("execute_result", {"text/html": "<td>/home/me/x</td>"}), "a local path, '/home/me/x'"),
        (stream("saved to /tmp/run/a.gif"), "a local path, '/tmp/run/a.gif'"),
        (stream("1\n" * 51), "expected 50 lines or fewer, found 51"),
        (stream("a.py:3: UserWarning: slow"), "a warning, 'UserWarning: '"),
        (stream("hm", "stderr"), "expected no errors, found 'hm'"),
        (v4.new_output("error", ename="KeyError", evalue="'a'", traceback=[]), "expected no errors, found 'KeyError'"),
    ],
)
def test_faults_of_outputs_are_found(output, fault):
    notebook = v4.new_notebook(cells=[v4.new_code_cell("a", execution_count=1, outputs=[output])])
    notebooks.mark(notebook)
    assert notebooks.faults(notebook) == ([] if fault is None else [f"cell 1: {fault}"])


def test_committed_widgets_are_found_and_mark_removes_them():
    widget = v4.new_output("display_data", {notebooks.WIDGET: {"model_id": "a"}, "text/plain": "VBox(children=())"})
    cell = v4.new_code_cell("a", execution_count=1, outputs=[stream("before"), widget])
    notebook = v4.new_notebook(cells=[cell], metadata={"widgets": {"a": {}}, "kernelspec": notebooks.KERNEL})
    notebook.metadata["nmnist"] = {"source_hash": notebooks.source_hash(notebook)}
    assert notebooks.faults(notebook) == [
        "expected no saved widgets, found some",
        "cell 1: a widget, which shows nothing without a kernel",
    ]
    notebooks.mark(notebook)
    assert notebooks.faults(notebook) == []
    assert cell.outputs == [stream("before")]


@pytest.mark.parametrize("kernel", [None, {**notebooks.KERNEL, "display_name": "Python 3"}])
def test_another_kernel_is_found_and_mark_replaces_it(kernel):
    notebook = v4.new_notebook(metadata={} if kernel is None else {"kernelspec": kernel})
    notebook.metadata["nmnist"] = {"source_hash": notebooks.source_hash(notebook)}
    assert notebooks.faults(notebook) == [f"expected the kernel 'Python 3 (ipykernel)', found {kernel}"]
    notebooks.mark(notebook)
    assert notebooks.faults(notebook) == []


@pytest.mark.parametrize("jupyter", [{}, {"source_hidden": True}, {"outputs_hidden": True}])
def test_a_solution_in_sight_is_found_and_mark_folds_it(jupyter):
    cell = v4.new_code_cell("a", execution_count=1, outputs=[stream("42")])
    cell.metadata.update({"tags": ["solution"], "jupyter": jupyter})
    notebook = v4.new_notebook(cells=[cell], metadata={"kernelspec": notebooks.KERNEL})
    notebook.metadata["nmnist"] = {"source_hash": notebooks.source_hash(notebook)}
    (fault,) = notebooks.faults(notebook)
    assert fault == "cell 1: expected a solution with its code and its outputs folded, found one in sight"
    notebooks.mark(notebook)
    assert notebooks.faults(notebook) == []
    assert cell.metadata.jupyter == {"source_hidden": True, "outputs_hidden": True}


@pytest.mark.slow
def test_solutions_are_still_folded_after_a_run(tmp_path, monkeypatch):
    pytest.importorskip("nbclient")
    folded = {"tags": ["solution"], "jupyter": {"source_hidden": True, "outputs_hidden": True}}
    cells = [v4.new_code_cell("6 * 7"), v4.new_code_cell("print(6 * 7)", metadata=folded)]
    path = tmp_path / "a.ipynb"
    nbformat.write(v4.new_notebook(cells=cells), path)
    monkeypatch.setattr(sys, "argv", ["notebooks.py", str(path)])
    notebooks.main()
    lesson, solution = nbformat.read(path, as_version=4).cells
    assert solution.metadata == folded
    assert solution.outputs == [stream("42\n")]
    assert not lesson.metadata


def test_outputs_of_another_source_are_found():
    cells = [v4.new_markdown_cell("text"), v4.new_code_cell("a = 1", execution_count=1), v4.new_code_cell(" ")]
    notebook = v4.new_notebook(cells=[*cells, v4.new_code_cell("b = 2", execution_count=2)])
    assert "not marked" in notebooks.faults(notebook)[0]
    notebooks.mark(notebook)
    notebook.cells[0].source = "another text"
    assert notebooks.faults(notebook) == []
    notebook.cells[1].source = "a = 2"
    assert "not marked" in notebooks.faults(notebook)[0]
    notebooks.mark(notebook)
    notebook.cells[3].execution_count = 7
    assert "found the counts [1, 7]" in notebooks.faults(notebook)[0]
