"""The explorer outside JupyterLab: in Voila and in marimo, where they are installed."""

import importlib.util
import json
import socket
import subprocess
import sys
import time

import pytest

import nvfp4viz

pytestmark = pytest.mark.browser
MAKE = """import nvfp4viz
x = {kind: nvfp4viz.synthetic(kind, 32, 64) for kind in ("lognormal", "normal")}
"""
MARIMO = f"""import marimo
app = marimo.App()

@app.cell
def _():
    {MAKE.replace(chr(10), chr(10) + "    ")}
    nvfp4viz.explore(x, engine="reference")
    return

if __name__ == "__main__":
    app.run()
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def served(tmp_path, browser):
    """Starts a server in the folder of the test, and opens its page once it answers."""
    running, tabs = [], []

    def start(*command: str, port: int):
        log = (tmp_path / "log").open("w")
        running.append(subprocess.Popen([sys.executable, "-m", *command], cwd=tmp_path, stdout=log, stderr=log))
        for _ in range(600):
            assert running[0].poll() is None, (tmp_path / "log").read_text()[-2000:]
            with socket.socket() as caller:  # a request would start a kernel
                if caller.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        tab = browser.new_page(viewport={"width": 1200, "height": 1400})
        tabs.append(tab)
        tab.complaints = []
        tab.on("console", lambda m: tab.complaints.append(m.text) if "nv4" in m.text or "anywidget" in m.text else None)
        tab.on("pageerror", lambda e: tab.complaints.append(str(e)))
        tab.goto(f"http://127.0.0.1:{port}/", wait_until="commit")
        return tab

    yield start
    for tab in tabs:
        tab.close()
    for process in running:
        process.terminate()
        process.wait(20)


def is_alive(tab) -> None:
    """It draws, and what is asked of the kernel comes back."""
    tab.locator(".nv4[data-drawn]").wait_for(timeout=90_000)
    tab.locator("select.tensor").select_option("normal")
    tab.locator(".nv4[data-tensor=normal]").wait_for()
    name = tab.locator(".nv4").get_attribute("data-a")
    wanted = nvfp4viz.analyze(nvfp4viz.synthetic("normal", 32, 64), name, engine="reference")
    shown = tab.locator('svg.error [data-side="a"][data-number="sqnr_db"]').get_attribute("data-value")
    assert float(shown) == wanted.sqnr_db
    tab.get_by_role("tab", name="Microscope").click()
    tab.locator("svg.microscope circle").first.wait_for()  # only the kernel has the block
    assert tab.complaints == []


@pytest.mark.skipif(importlib.util.find_spec("voila") is None, reason="voila is not installed (pip install voila)")
def test_in_voila(served, tmp_path):
    cell = {"cell_type": "code", "id": "a", "execution_count": None, "metadata": {}, "outputs": [],
            "source": MAKE + "nvfp4viz.explore(x, engine='reference')"}  # fmt: skip
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = {"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "x.ipynb").write_text(json.dumps(notebook))
    port = free_port()
    is_alive(served("voila", "x.ipynb", "--no-browser", f"--port={port}", port=port))


@pytest.mark.skipif(importlib.util.find_spec("marimo") is None, reason="marimo is not installed (pip install marimo)")
def test_in_marimo(served, tmp_path):
    (tmp_path / "x.py").write_text(MARIMO)
    port = free_port()
    is_alive(served("marimo", "run", "x.py", "--headless", "--no-token", f"--port={port}", port=port))
