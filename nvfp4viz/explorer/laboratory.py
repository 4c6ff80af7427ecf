"""A live lab: synthetic activations from dials, and which of two recipes they favour."""

from __future__ import annotations

from dataclasses import replace

import ipywidgets as widgets

from ..activations import SYNTHETIC, synthetic
from ..analysis import marked
from ..engine import usable_engine
from ..nvfp4 import Recipe
from ..shown import fixed
from .store import Store
from .widget import Explorer

TOKENS, FEATURES, SEED = 256, 1024, 0


def lab(recipe_a: Recipe | str = "4/6-mae-448", recipe_b: Recipe | str = "4/6-mae-256", *, engine: str = "auto") -> Lab:
    """Widgets that make activations from a distribution and a seed, and an explorer that compares two recipes on them.

    It starts with one tensor of each kind; each turn of a dial adds one, so that the strip shows what was tried.
    Returns: Lab, which Jupyter shows. Raises traitlets' TraitError for an unknown recipe, ValueError for an engine.
    """
    if engine != "auto":
        usable_engine(engine)  # a misspelt engine is one error, not one in every tensor
    return Lab(recipe_a, recipe_b, engine)


class Lab(widgets.VBox):
    """Made by `lab`. `kind`, `strength`, `features`, `tokens` and `seed` are its dials, `explorer` what they feed."""

    def __init__(self, recipe_a, recipe_b, engine: str):
        wide = {"layout": widgets.Layout(width="260px"), "continuous_update": False}
        self.kind = widgets.Dropdown(
            options=SYNTHETIC, value="crowded", description="kind", layout=widgets.Layout(width="230px")
        )
        self.strength = widgets.FloatLogSlider(1.0, min=-2, max=1, step=0.1, description="strength", **wide)
        self.features = widgets.SelectionSlider(
            options=[64, 256, 576, 1024, 2048, 4096], value=FEATURES, description="features", **wide
        )
        self.tokens = widgets.SelectionSlider(
            options=[16, 64, 256, 512, 1024], value=TOKENS, description="tokens", **wide
        )
        self.seed = widgets.BoundedIntText(SEED, 0, 9999, description="seed", layout=widgets.Layout(width="160px"))
        self.verdict = widgets.HTML()
        self._activations = {_name(kind): synthetic(kind, TOKENS, FEATURES, seed=SEED) for kind in SYNTHETIC}
        shown = {"recipe_a": recipe_a, "recipe_b": recipe_b, "tensor": _name(self.kind.value)}
        self.explorer = Explorer(Store(self._activations, engine=engine), **shown)
        self._dials = (self.kind, self.strength, self.features, self.tokens, self.seed)
        for dial in self._dials:
            dial.observe(self._make, "value")
        self.explorer.observe(self._judge, ["tensor", "recipe_a", "recipe_b"])
        rows = [
            widgets.HBox(r, layout=widgets.Layout(flex_flow="row wrap")) for r in (self._dials[:2], self._dials[2:])
        ]
        super().__init__([*rows, self.verdict, self.explorer])
        self._judge()

    def _repr_mimebundle_(self, **kwargs):
        return self.explorer.pictured(super()._repr_mimebundle_(**kwargs))

    def __repr__(self) -> str:
        return f"Lab({self.explorer.tensor}: A {self.explorer.recipe_a}, B {self.explorer.recipe_b})"

    def _make(self, _=None):
        kind, strength, features, tokens, seed = (dial.value for dial in self._dials)
        name = _name(kind, strength, features, tokens, seed)
        if name not in self._activations:
            self.explorer.add(name, synthetic(kind, tokens, features, seed=seed, strength=strength))
        self.explorer.tensor = name

    def _judge(self, _=None):
        self.verdict.value = f'<div style="font-size:14px;margin:6px 2px">{sentence(self.explorer)}</div>'


def sentence(explorer: Explorer) -> str:
    """Which recipe wins on the tensor shown, by how much, and the rate that says why."""
    a, b = explorer.stats_a, explorer.stats_b
    gain = b.sqnr_db - a.sqnr_db
    if not abs(gain) >= 0.005:
        return f"On {explorer.tensor} it does not matter: both give {fixed(a.sqnr_db)} dB."
    (winner, loser) = (b, a) if gain > 0 else (a, b)
    by_ceiling = a.recipe.four_over_six and replace(a.recipe, e4m3_max=b.recipe.e4m3_max) == b.recipe
    won, lost = (f"{s.recipe.e4m3_max:g}" if by_ceiling else s.recipe.name for s in (winner, loser))
    won, lost = (marked(name, s.recipe) for name, s in ((won, winner), (lost, loser)))
    verdict = f"On {explorer.tensor} <b>{won} beats {lost} by {fixed(abs(gain))} dB</b>"
    for rate, what in WHY.items():
        worse, better = getattr(loser, rate), getattr(winner, rate)
        if worse - better > 0.01:
            return f"{verdict}: {worse:.0%} of blocks {what} under {lost}, {better:.0%} under {won}."
    return verdict + "."


WHY = {
    "scale_zero": "lose their scale, and so all values,",
    "scale_subnormal": "have a scale below E4M3's normal range",
    "four_saturated": "would saturate at 448 if they mapped their largest value to 4",
}


def _name(kind: str, strength=1.0, features=FEATURES, tokens=TOKENS, seed=SEED) -> str:
    size = "" if (features, tokens) == (FEATURES, TOKENS) else f", {tokens} × {features}"
    return f"{kind} ×{strength:.3g}{size}" + (f", seed {seed}" if seed != SEED else "")
