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


def collapse_spaces(text: str) -> str:
    return " ".join(text.split())


def image_tags(text: str) -> list[tuple[str, str]]:
    """Return the alternative text and the source of each image in HTML."""
    parsed = [bs4.BeautifulSoup(tag, "html.parser").img for tag in re.findall(r"<img\b[^>]*>", text)]
    return [(tag.get("alt", ""), "".join(tag.get("src", "").split())) for tag in parsed]


def images(cell) -> list[tuple[str, str]]:
    """Return the alternative text and the source of each picture in a cell; `missing_parts` ignores empty texts."""
    if cell.cell_type == "markdown":
        return MARKDOWN_IMAGE.findall(CODE.sub("", cell.source)) + image_tags(CODE.sub("", cell.source))
    found = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if "text/html" in data:
            found += image_tags(data["text/html"])
            continue
        for kind in data:
            if kind.startswith("image/"):
                # nbconvert's default template drops the alternative text in the metadata.
                found.append(("", f"data:{kind};base64,{''.join(data[kind].split())}"))
    return found


def missing_parts(notebook, page: str) -> list[str]:
    """Return what the notebook shows but its HTML page does not, one line each."""
    found = []
    shown = set(image_tags(page))
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
    text = collapse_spaces(prose.get_text(" "))
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            formulas = FORMULA.findall(CODE.sub("", cell.source))
            found += [f"cell {number}: the formula {part}" for part in formulas if collapse_spaces(part) not in text]
    if "$" in text and "mathjax" not in page.lower():
        found.append("MathJax, which typesets the formulas")
    return found


def convert_to_html(notebook) -> str:
    """Return the notebook's HTML page without its code, because highlighting it would take most of the time."""
    from nbconvert import HTMLExporter  # imported here because it is slow

    bare = copy.deepcopy(notebook)
    for cell in bare.cells:
        if cell.cell_type == "code":
            cell.source = ""
    return HTMLExporter().from_notebook_node(bare)[0]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_html_has_all_parts_of_a_notebook(notebook):
    loaded = nbformat.read(notebook, as_version=4)
    missing = missing_parts(loaded, convert_to_html(loaded))
    assert not missing, "\n".join([notebook.name, *missing])


def test_missing_parts_are_found():
    png, gif = ("data:image/png;base64,iVBORw0KGgo=", "data:image/gif;base64,R0lGODlhAQABAAAAACw=")
    plot = v4.new_output("display_data", {"image/png": "iVBORw0KGgo=\n", "text/plain": "<Figure>"})
    table = v4.new_output("display_data", {"text/html": f'<td><img alt="3 &lt; 4" src="{gif}"></td>'})
    source = r"`$HOME` $a_i < b_i$, $$\sum_j w_{ij} \\ \alpha_u$$ ![a map](../gifs/a.gif)" + "\n\n```\n$a$\n```"
    notebook = v4.new_notebook(cells=[v4.new_markdown_cell(source), v4.new_code_cell("a", outputs=[plot, table])])
    page = convert_to_html(notebook)
    assert missing_parts(notebook, page) == []
    assert missing_parts(notebook, page.replace(png, "")) == [f"cell 1: the picture '' ({png[:40]})"]
    assert missing_parts(notebook, page.replace(html.escape("3 < 4"), "")) == ["cell 1: the alternative text '3 < 4'"]
    assert missing_parts(notebook, page.replace("a_i", "a<em>i</em>")) == ["cell 0: the formula $a_i < b_i$"]
    assert missing_parts(notebook, "") == [
        "cell 0: the picture 'a map' (../gifs/a.gif)",
        f"cell 1: the picture '' ({png[:40]})",
        f"cell 1: the picture '3 < 4' ({gif[:40]})",
        "cell 0: the formula $a_i < b_i$",
        r"cell 0: the formula $$\sum_j w_{ij} \\ \alpha_u$$",
    ]
