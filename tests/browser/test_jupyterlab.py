"""Test the notebooks in JupyterLab, started with the README's command, in a headless Chromium.

``pytest -m browser`` runs these tests, in a minute or two per notebook. It saves screenshots of the pages in
``.pytest_cache/browser``.
"""

import importlib.util
import os
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat import v4
from support import browser
from support.lab import Lab, count_images

# JupyterLab is not imported here: the import is slow, and without `-m browser` no test needs it.
MISSING = [name for name in ("jupyterlab", "websocket") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(browser.find_browser() is None, reason=f"none of {', '.join(browser.BROWSERS)} is on the PATH"),
]

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SCREENSHOTS = ROOT / ".pytest_cache" / "browser"
TIME_LIMIT = 1200  # seconds for one notebook, on a busy machine
KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}

#: Functions that make gifs and pngs. A gif without `loop` stops after its last frame.
PICTURES = """
import base64, io
from IPython.display import HTML, Image
from PIL import Image as Picture

def gif(**options):
    file, (first, *others) = io.BytesIO(), [Picture.new("L", (40, 40), grey) for grey in (0, 255)]
    first.save(file, "gif", save_all=True, append_images=others, duration=200, **options)
    return HTML(f'<img alt="a gif" src="data:image/gif;base64,{base64.b64encode(file.getvalue()).decode()}">')

def png(alt):
    file = io.BytesIO()
    Picture.new("L", (40, 40)).save(file, "png")
    return Image(file.getvalue(), alt=alt)
"""

CANVAS = """
import ipywidgets
import numpy as np
import torch
import nmnist_helpers as slayer
from nmnist_helpers.camera import simulate, to_mnist_look
from nmnist_helpers.checkpoint import load_checkpoint
from nmnist_helpers.pictures.canvas import DigitCanvas

net = slayer.Network()
load_checkpoint(slayer.TRAINED / "best" / "network.pt", net)
net.eval()
answer = ipywidgets.Label("nothing drawn yet")

def classify(canvas):
    events = slayer.EventLoader(simulate(to_mnist_look(canvas.image())[None]), 1).batch(0)[0]
    with torch.no_grad():
        digit = slayer.classifier.Rate.predict(net(events)).item()
    answer.value = f"stroke {canvas.strokes}: read as {digit}, ink {np.mean(canvas.image() > 0):.3f}"

ipywidgets.VBox([DigitCanvas(on_stroke=classify), answer])
"""

LIVE = """
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML
from nmnist_helpers.pictures import draw_digit, explore

def draw(height):
    fig, ax = plt.subplots(figsize=(2, 2))
    ax.bar([0], [height])
    ax.set_ylim(0, 10)
    return fig

explore(draw, "a bar", height=(5.0, 0.0, 10.0))
draw_digit(lambda drawing: HTML(f"ink {int((drawing > 0).sum())} end"), np.ones((2, 2), np.uint8))
"""


@pytest.fixture(scope="module")
def open_notebook(tmp_path_factory):
    """Start JupyterLab and Chromium for all tests; yield a function that opens a notebook or a list of cells."""
    folder = tmp_path_factory.mktemp("course")
    notebooks = folder / "notebooks"
    notebooks.mkdir()
    for part in ("Trained", "gifs"):
        shutil.copytree(ROOT / part, folder / part)
    environment = os.environ | {"NMNIST_HOME": str(folder)}
    environment.pop("MPLBACKEND", None)  # with the backend of the tests, notebooks show no figures
    if "NMNIST_TEST_MNIST" in environment:
        environment["NMNIST_MNIST"] = environment["NMNIST_TEST_MNIST"]
    with browser.jupyterlab(folder, environment) as (address, token), browser.chromium(folder) as devtools:

        def open_tab(notebook: Path | list) -> Lab:
            if isinstance(notebook, Path):
                name = Path(shutil.copy(notebook, notebooks)).name
            else:
                # A new name, because the page of an earlier notebook may still save that notebook.
                name = f"made-{len(list(notebooks.glob('made-*')))}.ipynb"
                nbformat.write(v4.new_notebook(cells=notebook, metadata={"kernelspec": KERNEL}), notebooks / name)
            return Lab(browser.Page(devtools), address, token, name)

        yield open_tab


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_no_faults_on_its_page(open_notebook, notebook):
    """Check it as committed, when JupyterLab does not trust it and sanitises its HTML, and after it has run."""
    lab = open_notebook(notebook)
    screenshots = SCREENSHOTS / notebook.stem
    shutil.rmtree(screenshots, ignore_errors=True)
    faults = [f"as committed: {fault}" for fault in lab.faults(screenshots / "committed")]
    lab.run(TIME_LIMIT)
    faults += lab.faults(screenshots)
    pictures = sum(map(count_images, lab.notebook()["cells"]))
    lab.close()
    assert not faults, "\n".join([notebook.name, *faults])
    assert pictures == sum(map(count_images, nbformat.read(notebook, as_version=4).cells))
    assert any(screenshots.iterdir())


def test_faults_on_a_page_are_found(open_notebook, tmp_path):
    cells = [
        v4.new_markdown_cell(r"Good: $\alpha_u = 1$, `$HOME`, $$\sum_i w_{ij}$$"),
        v4.new_code_cell(PICTURES + "gif()"),
        v4.new_code_cell("gif(loop=0)"),
        v4.new_markdown_cell(r"Not formulas: $\nosuchmacro$, $\frac{1}$"),
        v4.new_markdown_cell("Not closed: $a"),
        v4.new_code_cell('HTML(\'<img alt="broken" src="data:image/png;base64,AAAA">\')'),
        v4.new_code_cell("HTML('<script>console.error(\"logged by a script\")</script>')"),
        v4.new_code_cell("png(alt='in the metadata, which JupyterLab leaves out')"),
        v4.new_code_cell("1 / 0"),
        v4.new_code_cell("2"),
    ]
    lab = open_notebook(cells)
    lab.run(TIME_LIMIT)
    faults = lab.faults(tmp_path)
    lab.close()
    assert faults == [
        r"cell 3 (markdown): a formula is wrong, '\\nosuchmacro'",
        r"cell 3 (markdown): a formula is wrong, 'Missing argument for \\frac'",
        "cell 4 (markdown): a formula is not typeset",
        "cell 5 (code): a picture is not shown, 'data:image/png;base64,AAAA'",
        "cell 7 (code): a picture without an alternative text",
        "cell 8 (code): ZeroDivisionError: division by zero",
        "cell 9 (code): it did not run",
        "gif 0 does not move",
        "console: logged by a script",
    ]


def test_a_digit_drawn_with_the_mouse_is_classified(open_notebook):
    lab = open_notebook([v4.new_code_cell(CANVAS)])
    lab.run(TIME_LIMIT)
    page = lab.page
    page.wait("Boolean(document.querySelector('.digit-canvas canvas'))", 60)
    box = page.evaluate("document.querySelector('.digit-canvas canvas').getBoundingClientRect().toJSON()")

    def draw(*points):
        page.draw_line(*((box["x"] + x, box["y"] + y) for x, y in points))

    def wait_for_answer(pattern):
        text = "document.querySelector('.jp-OutputArea').innerText"
        return page.wait(f"/stroke 1: read as {pattern}/.exec({text})?.[0]", TIME_LIMIT)

    draw((50, 43), (100, 43), (143, 43), (121, 86), (100, 129), (86, 164))
    seven = wait_for_answer("[0-9], ink .*")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    (SCREENSHOTS / "drawn.png").write_bytes(page.screenshot())
    page.evaluate("document.querySelector('.digit-canvas button').click()")
    draw((100, 36), (100, 79), (100, 121), (100, 164))
    one = wait_for_answer("[0-9], ink 0.0[1-6].*")  # the ink of one line: the 7 has been cleared
    assert (seven[:19], one[:19]) == ("stroke 1: read as 7", "stroke 1: read as 1")
    assert not page.errors
    lab.close()


def test_a_slider_and_a_stroke_change_the_output(open_notebook):
    lab = open_notebook([v4.new_code_cell(LIVE)])
    lab.run(TIME_LIMIT)
    page = lab.page
    page.wait("Boolean(document.querySelector('.noUi-handle') && document.querySelector('.digit-canvas canvas'))", 60)
    first = page.evaluate("document.querySelector('.jp-OutputArea img').src")
    key = "new KeyboardEvent('keydown', {key: 'Right', bubbles: true})"
    page.evaluate(f"document.querySelector('.noUi-handle').dispatchEvent({key})")
    page.wait(f"document.querySelector('.jp-OutputArea img').src !== {first!r}", TIME_LIMIT)
    assert page.evaluate("document.querySelectorAll('.jp-OutputArea img').length") == 1
    ink = "/ink ([0-9]+) end/.exec(document.querySelector('.jp-OutputArea').innerText)?.[1]"
    assert page.evaluate(ink) == "4"
    box = page.evaluate("document.querySelector('.digit-canvas canvas').getBoundingClientRect().toJSON()")
    page.draw_line(*((box["x"] + x, box["y"] + 100) for x in (40, 90, 140)))
    assert int(page.wait(f"{ink} !== '4' && {ink}", TIME_LIMIT)) > 1000
    assert not page.errors
    lab.close()
