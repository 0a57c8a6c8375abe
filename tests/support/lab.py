"""Run a notebook that is open in JupyterLab, and find the faults on its page."""

import base64
import io
import time
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from .browser import Page

#: JavaScript expressions for the widget of the open notebook, for its kernel, and below for its gifs.
NOTEBOOK = "[...window.jupyterapp?.shell.widgets('main') ?? []].find(widget => widget.sessionContext)"
KERNEL = f"{NOTEBOOK}?.sessionContext.session?.kernel"

#: Scroll to a cell, wait until its pictures and formulas have been rendered, and describe what it shows.
DESCRIBE_CELL = """
(async (notebook, number) => {
  const cell = notebook.widgets[number];
  await notebook.scrollToItem(number);
  await cell.ready;
  if (cell.outputHidden) cell.outputHidden = false;  // of a folded solution
  const dollars = () => [...cell.node.querySelectorAll(".jp-RenderedMarkdown")].some(text => {
    const copy = text.cloneNode(true);
    copy.querySelectorAll("code, mjx-container").forEach(part => part.remove());
    return copy.textContent.includes("$");
  });
  const images = [...cell.node.querySelectorAll("img")];
  const end = Date.now() + 20000;
  while (Date.now() < end && (dollars() || !images.every(image => image.complete)))
    await new Promise(next => setTimeout(next, 100));
  return {
    images: images.map(image => [image.naturalWidth, image.src.slice(0, 100), image.alt.trim()]),
    outputImages: cell.node.querySelectorAll(".jp-OutputArea img").length,
    raw: dollars(),
    wrong: [...cell.node.querySelectorAll("mjx-merror, mjx-container [style*='color: red']")].map(part =>
      part.getAttribute("title") ?? part.closest("mjx-container").querySelector("annotation, math").textContent),
    widgets: /Error displaying widget|Loading widget|widget model not found/.test(cell.node.textContent),
  };
})(%s.content, %d)
"""

GIFS = """
[...document.querySelectorAll(".jp-Notebook img")].filter(image => /^data:image.gif|[.]gif($|[?])/.test(image.src))
"""


class Lab:
    """A notebook that is open in a browser tab."""

    def __init__(self, page: Page, address: str, token: str, name: str):
        self.page = page
        url = f"{address}/lab/workspaces/{quote(Path(name).stem)}/tree/{quote(name)}?token={token}"
        page.send("Page.navigate", url=url)
        page.wait(f"{NOTEBOOK}?.context.isReady && {KERNEL}?.status === 'idle'", 180)
        page.evaluate(f"jupyterapp.shell.activateById({NOTEBOOK}.id)")

    def run(self, seconds: float) -> None:
        """Run all cells and wait for the kernel."""
        page = self.page
        page.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells').then(() => { window.ran = true; })")
        page.wait("window.ran", seconds)
        page.wait(f"{KERNEL}.status === 'idle'", 60)

    def notebook(self) -> dict:
        """Return the notebook in its present state, in nbformat."""
        return self.page.evaluate(f"{NOTEBOOK}.content.model.toJSON()")

    def faults(self, screenshots: Path) -> list[str]:
        """Return the faults that a reader would see, one line each; save screenshots in a folder."""
        found = []
        screenshots.mkdir(parents=True, exist_ok=True)
        cells = self.notebook()["cells"]
        for number, cell in enumerate(cells):
            where = f"cell {number} ({cell['cell_type']})"
            found += [f"{where}: {fault}" for fault in code_faults(cell)]
            shown = self.page.evaluate(DESCRIBE_CELL % (NOTEBOOK, number))
            if number == 0 or shown["outputImages"]:
                (screenshots / f"{number:02}.png").write_bytes(self.page.screenshot())
            found += [
                f"{where}: a picture is not shown, {source!r}" for width, source, _ in shown["images"] if not width
            ]
            found += [f"{where}: a picture without an alternative text" for _, _, alt in shown["images"] if not alt]
            if shown["outputImages"] < (expected := count_images(cell)):
                found.append(f"{where}: expected {expected} pictures, found {shown['outputImages']}")
            found += [f"{where}: a formula is wrong, {text!r}" for text in shown["wrong"]]
            if shown["raw"]:
                found.append(f"{where}: a formula is not typeset")
            if shown["widgets"]:
                found.append(f"{where}: a widget is not shown")
        found += [f"gif {number} does not move" for number in range(self._count_gifs()) if not self._is_moving(number)]
        return found + [f"console: {text}" for text in self.page.errors]

    def _count_gifs(self) -> int:
        return self.page.evaluate(f"{GIFS}.length")

    def _is_moving(self, number: int, seconds: float = 15) -> bool:
        """Return whether a gif moves on the page; a gif with a single frame always counts as moving."""
        image = f"{GIFS}[{number}]"
        data = self.page.evaluate(
            f"fetch({image}.src).then(reply => reply.arrayBuffer()).then("
            "data => btoa([...new Uint8Array(data)].map(byte => String.fromCharCode(byte)).join('')))"
        )
        if getattr(Image.open(io.BytesIO(base64.b64decode(data))), "n_frames", 1) == 1:
            return True
        place = f"{image}.scrollIntoView({{block: 'center'}}), {image}.getBoundingClientRect().toJSON()"
        box = {key: value for key, value in self.page.evaluate(place).items() if key in ("x", "y", "width", "height")}
        first, end = self.page.screenshot(box), time.monotonic() + seconds
        while self.page.screenshot(box) == first:
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True

    def close(self) -> None:
        """Stop the kernel and close the tab."""
        self.page.evaluate(f"{NOTEBOOK}?.sessionContext?.shutdown()")
        self.page.close()


def code_faults(cell: dict) -> list[str]:
    """Return the faults of a code cell that did not run or that raised an error."""
    if cell["cell_type"] != "code" or not "".join(cell["source"]).strip():
        return []
    errors = [output for output in cell["outputs"] if output["output_type"] == "error"]
    if errors:
        return [f"{output['ename']}: {output['evalue']}" for output in errors]
    return [] if cell["execution_count"] else ["it did not run"]


def count_images(cell: dict) -> int:
    """Return the number of pictures in a cell's outputs."""
    data = [output.get("data", {}) for output in cell.get("outputs", [])]
    html = sum("".join(kinds.get("text/html", "")).count("<img") for kinds in data)
    return html + sum(any(kind.startswith("image/") for kind in kinds) for kinds in data if "text/html" not in kinds)
