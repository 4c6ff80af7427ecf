"""The picture beside an explorer: what it shows, that it can be read on light and dark, and that it comes fast."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from nvfp4viz import analyze, synthetic
from nvfp4viz.explorer import explore, still

X = synthetic("lognormal", 64, 256)
VERSIONS = {"nvfp4viz": "1.2.3", "torch": "4.5", "numba": None}


@pytest.fixture
def written(monkeypatch):
    """The words of the pictures that are drawn."""
    words, text = [], still._Sheet.text
    monkeypatch.setattr(
        still._Sheet, "text", lambda self, x, y, w, *a, **k: words.append(w) or text(self, x, y, w, *a, **k)
    )
    return words


def drawn(a: str, b: str, x=X, name: str = "x"):
    png, about = still.still(name, *(analyze(x, r, engine="reference") for r in (a, b)), VERSIONS)
    return np.array(Image.open(io.BytesIO(png))), about


def test_it_says_tensor_recipes_errors_engine_and_versions(written):
    _, about = drawn("4/6-mae-448", "4/6-mae-300", name="model.x\n<b>")
    a = analyze(X, "4/6-mae-448", engine="reference")
    told = "\n".join(written)
    assert f"4/6-mae-448, {a.sqnr_db:.2f} dB, {a.n_four:,} of {a.blocks:,} blocks chose 4" in told
    assert "4/6-mae-300 (study only)" in told and "ceiling 448" in told and "ceiling 300" in told
    assert "model.x\\n<b>" in told and "engine reference · nvfp4viz 1.2.3 · torch 4.5" in told
    assert (
        about["alt"].startswith("model.x\\n<b>: block scales under A 4/6-mae-448") and "B 4/6-mae-300" in about["alt"]
    )


@pytest.mark.parametrize(("a", "b"), [("4/6-mae-448", "4/6-mse-256"), ("standard", "standard-tensor")])
def test_it_has_no_ground_and_inks_for_light_and_dark(a, b):
    pixels, about = drawn(a, b)
    assert pixels.shape[:2] == (2 * about["height"], 2 * about["width"])
    assert not pixels[[0, 0, -1, -1], [0, -1, 0, -1], 3].any() and (pixels[..., 3] == 0).mean() > 0.5
    solid = np.unique(pixels[pixels[..., 3] == 255][:, :3], axis=0) / 255.0
    linear = np.where(solid <= 0.04045, solid / 12.92, ((solid + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
    on_white, on_dark = 1.05 / (linear + 0.05), (linear + 0.05) / (0.0056 + 0.05)
    assert on_white.min() > 2 and on_dark.min() > 3
    middle = 2 * still.MIDDLE
    above, below = pixels[: middle - 22, 140:], pixels[middle + 22 :, 140:]
    assert {tuple(p) for p in above[above[..., 3] == 255]} != {tuple(p) for p in below[below[..., 3] == 255]}


def test_bars_have_the_shares_of_scales():
    """One scale in use: a bar of full height, of as many pixels as its cell has."""
    pixels, _ = drawn("standard", "standard-256", torch.ones(4, 16))
    solid = pixels[..., 3] == 255
    column = solid[: 2 * (still.MIDDLE - still.BAND), 2 * still.LEFT + 4 : 2 * still.RIGHT].sum(0).max()
    assert column == pytest.approx(2 * still.REACH, abs=30)  # and the mark of its ceiling


@pytest.mark.parametrize("x", [torch.zeros(4, 32), torch.full((4, 32), 2.0**-40), torch.full((2, 16), 1e30)])
def test_it_is_drawn_of_anything(x, written):
    drawn("4/6-mse-448", "4/6-mae-256-tensor", x, name="日本" * 90)
    assert "inf" not in "".join(written) and "nan" not in "".join(written)


@pytest.mark.parametrize("how", ["", 'sys.modules["matplotlib"] = None'])
def test_a_display_loads_no_matplotlib(how):
    program = f"""
        import sys; {how}
        import torch, nvfp4viz
        w = nvfp4viz.explore(torch.ones(4, 32), engine="reference").wait()
        data, about = w._repr_mimebundle_()
        print(data["image/png"][:4], about["image/png"]["width"], "matplotlib.figure" in sys.modules)
    """.replace("\n        ", "\n")
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert run.stdout.split() == ["iVBO", str(still.WIDTH), "False"], run.stderr


def test_what_is_shown_is_what_was_asked_for():
    w = explore({"x": X}, ["standard", "4/6-mse-448"], engine="reference", recipe_a="4/6-mse-448").wait()
    _, about = w._repr_mimebundle_()
    assert "A 4/6-mse-448" in about["image/png"]["alt"]
    w.close()
