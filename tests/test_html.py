"""Test that ``jupyter nbconvert --to html`` keeps the pictures, gifs, formulas and alternative texts of notebooks."""

import copy
import html
import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

if importlib.util.find_spec("nbconvert") is None:
    pytest.skip("nbconvert is not installed", allow_module_level=True)
bs4 = pytest.importorskip("bs4", reason="beautifulsoup4, which comes with nbconvert, is not installed")

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
CODE = re.compile(r"(```|~~~).*?\1|`+[^`]+`+", re.DOTALL)
FORMULA = re.compile(r"\$\$.+?\$\$|\$[^$\n]+(?:\n[^$\n]+)*\$", re.DOTALL)
MARKDOWN_IMAGE = re.compile(r"!\[(.*?)\]\((\S+?)(?:\s.*?)?\)")


def squeezed(text: str) -> str:
    return " ".join(text.split())


def tags(text: str) -> list[tuple[str, str]]:
    """Return the alternative text and the source of each image in a piece of HTML."""
    parsed = [bs4.BeautifulSoup(tag, "html.parser").img for tag in re.findall(r"<img\b[^>]*>", text)]
    return [(tag.get("alt", ""), "".join(tag.get("src", "").split())) for tag in parsed]


def images(cell) -> list[tuple[str, str]]:
    """Return the alternative text and the source of each picture in a cell; an empty text is not checked."""
    if cell.cell_type == "markdown":
        return MARKDOWN_IMAGE.findall(CODE.sub("", cell.source)) + tags(CODE.sub("", cell.source))
    found = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if "text/html" in data:
            found += tags(data["text/html"])
            continue
        for kind in data:
            if kind.startswith("image/"):
                # nbconvert's default template drops the alternative text in the metadata.
                found.append(("", f"data:{kind};base64,{''.join(data[kind].split())}"))
    return found


def lost(notebook, page: str) -> list[str]:
    """Return what the notebook shows but its HTML page does not, one line each."""
    found = []
    shown = set(tags(page))
    sources = {source for _, source in shown}
    for number, cell in enumerate(notebook.cells):
        for text, source in images(cell):
            if source not in sources:
                found.append(f"cell {number}: the picture {text!r} ({source[:40]})")
            elif text and (text, source) not in shown:
                found.append(f"cell {number}: the alternative text {text!r}")
    prose = bs4.BeautifulSoup(
        page, "html.parser", parse_only=bs4.SoupStrainer(class_=re.compile("jp-RenderedMarkdown"))
    )
    text = squeezed(prose.get_text(" "))
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            formulas = FORMULA.findall(CODE.sub("", cell.source))
            found += [f"cell {number}: the formula {it}" for it in formulas if squeezed(it) not in text]
    if "$" in text and "mathjax" not in page.lower():
        found.append("MathJax, which typesets the formulas")
    return found


def converted(notebook) -> str:
    """Return the notebook's HTML page without code, because highlighting code takes most of the time."""
    from nbconvert import HTMLExporter  # imported here because it is slow

    bare = copy.deepcopy(notebook)
    for cell in bare.cells:
        if cell.cell_type == "code":
            cell.source = ""
    return HTMLExporter().from_notebook_node(bare)[0]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_is_lost(notebook):
    whole = nbformat.read(notebook, as_version=4)
    missing = lost(whole, converted(whole))
    assert not missing, "\n".join([notebook.name, *missing])


def test_what_is_lost_is_found():
    png, gif = ("data:image/png;base64,iVBORw0KGgo=", "data:image/gif;base64,R0lGODlhAQABAAAAACw=")
    plot = v4.new_output("display_data", {"image/png": "iVBORw0KGgo=\n", "text/plain": "<Figure>"})
    table = v4.new_output("display_data", {"text/html": f'<td><img alt="3 &lt; 4" src="{gif}"></td>'})
    source = r"`$HOME` $a_i < b_i$, $$\sum_j w_{ij} \\ \alpha_u$$ ![a map](../gifs/a.gif)" + "\n\n```\n$a$\n```"
    notebook = v4.new_notebook(cells=[v4.new_markdown_cell(source), v4.new_code_cell("a", outputs=[plot, table])])
    page = converted(notebook)
    assert lost(notebook, page) == []
    assert lost(notebook, page.replace(png, "")) == [f"cell 1: the picture '' ({png[:40]})"]
    assert lost(notebook, page.replace(html.escape("3 < 4"), "")) == ["cell 1: the alternative text '3 < 4'"]
    assert lost(notebook, page.replace("a_i", "a<em>i</em>")) == ["cell 0: the formula $a_i < b_i$"]
    assert lost(notebook, "") == [
        "cell 0: the picture 'a map' (../gifs/a.gif)",
        f"cell 1: the picture '' ({png[:40]})",
        f"cell 1: the picture '3 < 4' ({gif[:40]})",
        "cell 0: the formula $a_i < b_i$",
        r"cell 0: the formula $$\sum_j w_{ij} \\ \alpha_u$$",
    ]
