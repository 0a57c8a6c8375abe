"""Start a JupyterLab server, and control a headless Chromium through its DevTools protocol.

The packages for this purpose (Selenium, Playwright) need a driver or a browser of their own. The few commands needed
here can be sent with the websocket package, which is installed with Jupyter's server.
"""

import base64
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_browser() -> str | None:
    """Return the path of a Chromium or Chrome, or None if there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def run_in_background(command: list[str], log: Path, **options) -> Iterator[subprocess.Popen]:
    """Run a command and write its output to `log`; end the command on exit."""
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, **options) as started:
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(30)
            except subprocess.TimeoutExpired:
                started.kill()


def wait_for(condition, seconds: float, what: str):
    """Call `condition` until it returns a true value, and return that value; an OSError counts as false."""
    end = time.monotonic() + seconds
    while True:
        try:
            if value := condition():
                return value
        except OSError:
            pass
        if time.monotonic() > end:
            raise TimeoutError(f"expected {what} within {seconds:g} s")
        time.sleep(0.2)


@contextmanager
def jupyterlab(folder: Path, environment: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Start JupyterLab on the notebooks in `folder` as in the README, on a free port; yield its address and token."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, token, log = f"http://127.0.0.1:{port}", secrets.token_hex(16), folder / "jupyterlab.log"
    # --expose-app-in-browser lets a script execute the commands of JupyterLab's menus.
    command = [sys.executable, "-m", "jupyter", "lab", "notebooks", "--no-browser", "--expose-app-in-browser"]
    command += ["--allow-root", f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    with run_in_background(command, log, cwd=folder, env=environment) as server:

        def is_ready():
            if server.poll() is not None:
                raise RuntimeError(f"expected a running JupyterLab, found {log.read_text()[-2000:]}")
            with urllib.request.urlopen(f"{address}/api?token={token}", timeout=5) as reply:
                return reply.status == 200

        wait_for(is_ready, 120, f"an answer from JupyterLab ({log})")
        yield address, token


@contextmanager
def chromium(folder: Path, width: int = 1280, height: int = 1400) -> Iterator[str]:
    """Start Chromium without a window and without access to other hosts; yield the address of its DevTools."""
    command = [
        str(find_browser()),
        "--headless=new",
        "--remote-debugging-port=0",
        f"--user-data-dir={folder / 'profile'}",
    ]
    command += ["--no-first-run", "--disable-dev-shm-usage", f"--window-size={width},{height}"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--no-sandbox")  # the sandbox does not run as root
    with run_in_background([*command, "about:blank"], folder / "chromium.log"):
        port = folder / "profile" / "DevToolsActivePort"
        yield f"http://127.0.0.1:{wait_for(lambda: port.read_text().split(), 60, 'a running Chromium')[0]}"


class Page:
    """A browser tab. `errors` holds the error messages in its console."""

    def __init__(self, devtools: str):
        import websocket

        request = urllib.request.Request(f"{devtools}/json/new", method="PUT")
        with urllib.request.urlopen(request, timeout=30) as reply:
            self._socket = websocket.create_connection(
                json.load(reply)["webSocketDebuggerUrl"], timeout=300, suppress_origin=True
            )
        self._calls = 0
        self.errors: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        self.send("Page.bringToFront")  # gifs do not move in a background tab

    def close(self) -> None:
        self.send("Page.close")
        self._socket.close()

    def send(self, method: str, **parameters) -> dict:
        """Send a command of the DevTools protocol and return its result."""
        self._calls += 1
        self._socket.send(json.dumps({"id": self._calls, "method": method, "params": parameters}))
        while (message := json.loads(self._socket.recv())).get("id") != self._calls:
            self._record_error(message)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']['message']}")
        return message["result"]

    def _record_error(self, message: dict) -> None:
        event, params = message["method"], message.get("params", {})
        if event == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif event == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            parts = [str(part.get("value", part.get("description"))) for part in params["args"]]
            self.errors.append(" ".join(parts))
        elif event == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}".strip())

    def evaluate(self, script: str):
        """Return the value of a JavaScript expression; if it is a promise, wait for the promise's value."""
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{script}: {result['exceptionDetails'].get('exception', {}).get('description')}")
        return result["result"].get("value")

    def wait(self, script: str, seconds: float):
        """Wait until a JavaScript expression is true, and return its value."""
        return wait_for(lambda: self.evaluate(script), seconds, f"a true value of {script}")

    def screenshot(self, box: dict[str, float] | None = None) -> bytes:
        """Return a screenshot of the page, or of a rectangle (x, y, width, height) of it, as PNG."""
        clip = {} if box is None else {"clip": {**box, "scale": 1}}
        return base64.b64decode(self.send("Page.captureScreenshot", **clip)["data"])

    def draw_line(self, *points: tuple[float, float]) -> None:
        """Draw a line through points (x, y) of the page with the mouse."""
        for kind, places in (("mousePressed", points[:1]), ("mouseMoved", points[1:]), ("mouseReleased", points[-1:])):
            for x, y in places:
                button = {"button": "left", "buttons": 0 if kind == "mouseReleased" else 1, "clickCount": 1}
                self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)
