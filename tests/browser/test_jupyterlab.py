"""The notebooks in JupyterLab, as the README's command opens them, in a Chromium without a window.

This takes a minute or two a notebook: ``pytest -m browser``. The pictures of the pages are then in
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
from support.lab import Lab, images_of

# Not imported here: JupyterLab takes a while, and without `-m browser` nothing needs it.
MISSING = [name for name in ("jupyterlab", "websocket") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(browser.browser() is None, reason=f"none of {', '.join(browser.BROWSERS)} is on the PATH"),
]

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PHOTOS = ROOT / ".pytest_cache" / "browser"
SECONDS = 1200  # for one notebook, on a machine with other things to do
KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}

#: Moving gifs; without `loop` they stop after the last frame.
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

def drawn(canvas):
    events = slayer.EventLoader(simulate(to_mnist_look(canvas.image())[None]), 1).batch(0)[0]
    with torch.no_grad():
        digit = slayer.classifier.Rate.predict(net(events)).item()
    answer.value = f"stroke {canvas.strokes}: read as {digit}, ink {np.mean(canvas.image() > 0):.3f}"

ipywidgets.VBox([DigitCanvas(on_stroke=drawn), answer])
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
def lab(tmp_path_factory):
    """JupyterLab and Chromium for all tests; gives a function that opens a notebook, and closes those that are open."""
    folder = tmp_path_factory.mktemp("course")
    notebooks = folder / "notebooks"
    notebooks.mkdir()
    for part in ("Trained", "gifs"):
        shutil.copytree(ROOT / part, folder / part)
    environment = os.environ | {"NMNIST_HOME": str(folder)}
    environment.pop("MPLBACKEND", None)  # the tests' own would draw no figure in a notebook
    if "NMNIST_TEST_MNIST" in environment:
        environment["NMNIST_MNIST"] = environment["NMNIST_TEST_MNIST"]
    with browser.jupyterlab(folder, environment) as (address, token), browser.chromium(folder) as devtools:

        def opened(notebook: Path | list) -> Lab:
            if isinstance(notebook, Path):
                name = Path(shutil.copy(notebook, notebooks)).name
            else:
                # A name of its own: the page of an earlier one may still save it.
                name = f"made-{len(list(notebooks.glob('made-*')))}.ipynb"
                nbformat.write(v4.new_notebook(cells=notebook, metadata={"kernelspec": KERNEL}), notebooks / name)
            return Lab(browser.Page(devtools), address, token, name)

        yield opened


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_whole_on_the_page(lab, notebook):
    """As it is committed, when JupyterLab does not trust it and cleans its HTML, and after it has run."""
    shown = lab(notebook)
    photos = PHOTOS / notebook.stem
    shutil.rmtree(photos, ignore_errors=True)
    faults = [f"as committed: {fault}" for fault in shown.faults(photos / "committed")]
    shown.run(SECONDS)
    faults += shown.faults(photos)
    pictures = sum(map(images_of, shown.notebook()["cells"]))
    shown.close()
    assert not faults, "\n".join([notebook.name, *faults])
    assert pictures == sum(map(images_of, nbformat.read(notebook, as_version=4).cells))
    assert any(photos.iterdir())


def test_faults_on_a_page_are_found(lab, tmp_path):
    cells = [
        v4.new_markdown_cell(r"Good: $\alpha_u = 1$, `$HOME`, $$\sum_i w_{ij}$$"),
        v4.new_code_cell(PICTURES + "gif()"),
        v4.new_code_cell("gif(loop=0)"),
        v4.new_markdown_cell(r"Not formulas: $\nosuchmacro$, $\frac{1}$"),
        v4.new_markdown_cell("Not closed: $a"),
        v4.new_code_cell('HTML(\'<img alt="broken" src="data:image/png;base64,AAAA">\')'),
        v4.new_code_cell("HTML('<script>console.error(\"said by a script\")</script>')"),
        v4.new_code_cell("png(alt='in the metadata, which JupyterLab leaves out')"),
        v4.new_code_cell("1 / 0"),
        v4.new_code_cell("2"),
    ]
    shown = lab(cells)
    shown.run(SECONDS)
    faults = shown.faults(tmp_path)
    shown.close()
    assert faults == [
        r"cell 3 (markdown): a formula is wrong, '\\nosuchmacro'",
        r"cell 3 (markdown): a formula is wrong, 'Missing argument for \\frac'",
        "cell 4 (markdown): a formula is not typeset",
        "cell 5 (code): a picture is not shown, 'data:image/png;base64,AAAA'",
        "cell 7 (code): a picture without an alternative text",
        "cell 8 (code): ZeroDivisionError: division by zero",
        "cell 9 (code): it did not run",
        "gif 0 does not move",
        "console: said by a script",
    ]


def test_a_digit_drawn_with_the_mouse_is_read(lab):
    shown = lab([v4.new_code_cell(CANVAS)])
    shown.run(SECONDS)
    page = shown.page
    page.wait("Boolean(document.querySelector('.digit-canvas canvas'))", 60)
    box = page.evaluate("document.querySelector('.digit-canvas canvas').getBoundingClientRect().toJSON()")

    def draw(*points):
        page.stroke(*((box["x"] + x, box["y"] + y) for x, y in points))

    def answer(digit_and_ink):
        text = "document.querySelector('.jp-OutputArea').innerText"
        return page.wait(f"/stroke 1: read as {digit_and_ink}/.exec({text})?.[0]", SECONDS)

    draw((70, 60), (140, 60), (200, 60), (170, 120), (140, 180), (120, 230))
    seven = answer("[0-9], ink .*")
    PHOTOS.mkdir(parents=True, exist_ok=True)
    (PHOTOS / "drawn.png").write_bytes(page.photograph())
    page.evaluate("document.querySelector('.digit-canvas button').click()")
    draw((140, 50), (140, 110), (140, 170), (140, 230))
    one = answer("[0-9], ink 0.0[1-6].*")  # a single stroke alone: the 7 is no longer there
    assert (seven[:19], one[:19]) == ("stroke 1: read as 7", "stroke 1: read as 1")
    assert not page.errors
    shown.close()


def test_a_slider_and_a_stroke_change_what_is_shown(lab):
    shown = lab([v4.new_code_cell(LIVE)])
    shown.run(SECONDS)
    page = shown.page
    page.wait("Boolean(document.querySelector('.noUi-handle') && document.querySelector('.digit-canvas canvas'))", 60)
    first = page.evaluate("document.querySelector('.jp-OutputArea img').src")
    key = "new KeyboardEvent('keydown', {key: 'Right', bubbles: true})"
    page.evaluate(f"document.querySelector('.noUi-handle').dispatchEvent({key})")
    page.wait(f"document.querySelector('.jp-OutputArea img').src !== {first!r}", SECONDS)
    assert page.evaluate("document.querySelectorAll('.jp-OutputArea img').length") == 1
    ink = "/ink ([0-9]+) end/.exec(document.querySelector('.jp-OutputArea').innerText)?.[1]"
    assert page.evaluate(ink) == "4"
    box = page.evaluate("document.querySelector('.digit-canvas canvas').getBoundingClientRect().toJSON()")
    page.stroke(*((box["x"] + x, box["y"] + 100) for x in (60, 120, 180)))
    assert int(page.wait(f"{ink} !== '4' && {ink}", SECONDS)) > 1000
    assert not page.errors
    shown.close()
