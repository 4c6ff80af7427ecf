"""Make the pictures of README.md and the gallery from bundled activations: python scripts/make_pictures.py [NAME ...]

The explorer is photographed in a report by a headless Chromium, light and dark; figures are SVG that follows the page
round it. Names are those of the files in docs/pictures, without their ending; all are made if none is given.
"""

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image

import nvfp4viz
from nvfp4viz import plots
from nvfp4viz.analysis import attribute, block_at, ceiling_dial, choice, inspect_block, pick, static_scale_curve
from nvfp4viz.files import replacing

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/pictures"
DATA = ROOT / "data/smollm2-135m-activations.safetensors"
TENSOR = "model.layers.22.self_attn.o_proj"


def figures() -> dict:
    """Name -> a function that draws it."""
    activations = nvfp4viz.load(DATA)
    x = activations[TENSOR]
    stats = {name: nvfp4viz.analyze(x, recipe) for name, recipe in nvfp4viz.RECIPES.items()}

    def close_up():
        found = pick(activations["model.layers.15.self_attn.o_proj"], "4/6-mse-256", "gained", n=1)["blocks"][0]
        values, amax = block_at(
            activations["model.layers.15.self_attn.o_proj"], found["token"], found["block"], nvfp4viz.Recipe()
        )
        return plots.block_close_up(inspect_block(values, amax, "4/6-mse-256"))

    return {
        "block-scales": lambda: plots.block_scale_histogram(stats["4/6-mse-448"], stats["4/6-mse-256"]),
        "limits": lambda: plots.clipping_rates(stats),
        "error": lambda: plots.error_by_tensor(nvfp4viz.sweep(activations), baseline="standard"),
        "tokens": lambda: plots.nmse_distribution(stats),
        "block": close_up,
        "attribution": lambda: plots.attribution_bars(
            {name: attribute(t, "4/6-mae-448") for name, t in activations.items()}, without_rounding=True
        ),
        "ceilings": lambda: plots.ceiling_curve(ceiling_dial(x, ["standard", "4/6-mse-448"])),
        "ratios": lambda: plots.amax_ratios(ceiling_dial(x, ["4/6-mse-448"], values=[256, 448])),
        "gain": lambda: plots.gain_histogram(choice(x, "4/6-mae-256")),
        "gap": lambda: plots.gain_by_position(choice(x, "4/6-mse-256")),
        "static-scale": lambda: plots.static_scale(static_scale_curve(x, "4/6-mse-256")),
    }


def photograph_explorer() -> None:
    from playwright.sync_api import sync_playwright

    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        page_path = nvfp4viz.report(nvfp4viz.sweep(nvfp4viz.load(DATA), blocks=True), Path(folder) / "report.html")
        browser = p.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        for scheme in ("light", "dark"):
            page = browser.new_page(
                viewport={"width": 1060, "height": 900}, device_scale_factor=1.5, color_scheme=scheme
            )
            page.goto(page_path.as_uri())
            page.locator(".nv4[data-state=ready], .nv4").first.wait_for()
            page.wait_for_timeout(1500)
            page.locator(".nv4 select").first.select_option(value=TENSOR)
            page.wait_for_timeout(800)
            _save(f"explorer-{scheme}", page.locator(".nv4").first.screenshot())
        browser.close()


def _save(name: str, png: bytes) -> None:
    """Write a PNG with a palette: a third of the size, and no difference to see."""
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(192, dither=Image.Dither.NONE)
    with replacing(FOLDER / f"{name}.png") as temporary:
        image.save(temporary, format="PNG", optimize=True)
    print(name)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    wanted = sys.argv[1:]
    for name, draw in figures().items():
        if not wanted or name in wanted:
            data, _ = plots.Picture(draw())._repr_mimebundle_()
            (FOLDER / f"{name}.svg").write_text(data["image/svg+xml"], encoding="utf-8")
            print(name)
    if not wanted or "explorer" in wanted:
        photograph_explorer()
