"""What every test may use: the bundled activations, a browser, and a reason printed for each test that cannot run."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).parents[1]
TURNS = pytest.StashKey()
collect_ignore_glob = ["*conftest.py"]  # else --doctest-modules imports each as one module named conftest
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM_ARGS = [
    "--no-sandbox",  # refuses to start as root otherwise, as in most containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

hypothesis.settings.register_profile("local", deadline=None)  # the first example compiles kernels
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


def find_chromium() -> str | None:
    """Path of an installed Chromium or Chrome, None where there is none."""
    return next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)


@cache
def why_no_gpu() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "gpu: torch finds no CUDA device"


@cache
def why_no_blackwell() -> str | None:
    import torch

    if why_no_gpu():
        return "blackwell: torch finds no CUDA device"
    major, minor = torch.cuda.get_device_capability()
    if major < 10:
        return f"blackwell: the GPU has compute capability {major}.{minor}, FlashInfer's NVFP4 kernels need 10.0"
    return None


@cache
def why_no_browser() -> str | None:
    if importlib.util.find_spec("playwright") is None:
        return "browser: playwright is not installed (pip install playwright)"
    if find_chromium() is None:
        return f"browser: none of {', '.join(CHROMIUM_NAMES)} is on PATH (apt-get install chromium)"
    return None


@cache
def why_no_model() -> str | None:
    there = {
        "the model (make model fetches it)": (ROOT / ".cache/smollm2/SmolLM2-135M-Instruct.gguf").exists(),
        "transformers": importlib.util.find_spec("transformers") is not None,
        "gguf": importlib.util.find_spec("gguf") is not None,
    }
    missing = [name for name, found in there.items() if not found]
    return f"notebook 06 runs a real model and needs {' and '.join(missing)}" if missing else None


@cache
def why_no_node() -> str | None:
    if shutil.which("node") is None:
        return "node: it is not on PATH (apt-get install nodejs)"
    parser = "require('internal/deps/acorn/acorn/dist/acorn')"
    run = subprocess.run(["node", "--expose-internals", "-e", parser], capture_output=True, timeout=60)
    return "node: this build has no parser of JavaScript inside" if run.returncode else None


WHY_NOT = {"gpu": why_no_gpu, "blackwell": why_no_blackwell, "browser": why_no_browser, "node": why_no_node}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name.startswith("06_") and (reason := why_no_model()):
            item.add_marker(pytest.mark.skip(reason=reason))
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
        for marker, why_not in WHY_NOT.items():
            if item.get_closest_marker(marker) and (reason := why_not()):
                item.add_marker(pytest.mark.skip(reason=reason))
                break
    # Last of its file, because Playwright's synchronous API leaves an event loop running in the main thread.
    files = list(dict.fromkeys(item.path for item in items))
    place = dict(zip(files, range(len(files)), strict=True))
    items.sort(key=lambda item: (place[item.path], item.get_closest_marker("browser") is not None))


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around pytest-timeout, whose clock starts with the turn
def pytest_runtest_protocol(item: pytest.Item):
    if not hasattr(item.config, "workerinput"):
        return (yield)
    from turns import turn  # Windows has no such locks, nor make

    with turn(Path(item.config.workerinput["turns"]), alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:
    """Tells each worker of pytest-xdist the folder of the locks that they share."""
    node.workerinput["turns"] = node.config.stash[TURNS].name


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TURNS] = tempfile.TemporaryDirectory(prefix="turns-")


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[TURNS].cleanup()


@pytest.fixture(scope="session")
def bundled() -> Path:
    """The activations that come with the repository: SmolLM2-135M, one tensor for each captured layer input."""
    return ROOT / "data" / "smollm2-135m-activations.safetensors"


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium of a file of tests, driven by Playwright; `browser.new_page()` opens a page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_ARGS)
        yield browser
        browser.close()
