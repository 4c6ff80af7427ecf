"""What runs where nobody says a word, and which measured recipe stands for it."""

from __future__ import annotations

from dataclasses import replace

from ..environment import recipe_from_environment
from ..nvfp4 import Recipe, study_only

FLASHINFER = "FlashInfer's 4over6 default"
SGLANG = "SGLang's default"
STUDY = "to study only"  # the role of a recipe that no engine runs
DEFAULTS = {  # what runs in an environment that says no more
    FLASHINFER: recipe_from_environment({"FLASHINFER_NVFP4_4OVER6": "1"}, "flashinfer"),
    SGLANG: recipe_from_environment({}, "sglang"),
}


def roles(recipes: dict[str, Recipe], order: list[str]) -> list[tuple[str, str]]:
    """What the named recipe, the first in order, is compared with: the defaults, then the others from the best on."""
    found = []
    for role, default in DEFAULTS.items():
        name, near = _find(recipes, order[0], default)
        if name not in (None, order[0]):
            found.append((role if not near else f"{role}, {default.name}, {near}", name))
    others = [n for n in order[1:] if n not in {name for _, name in found}]
    second = {order[1]: "the runner-up"} if others else {}
    return found + [(STUDY if study_only(recipes[n]) else second.get(n, "another recipe"), n) for n in others]


def _find(recipes: dict[str, Recipe], best: str, default: Recipe) -> tuple[str | None, str]:
    """The name of a default, and how it differs; where it was not measured, that of the named recipe's kind."""
    like = replace(default, per_token=recipes[best].per_token, fast_math=recipes[best].fast_math)
    name = next((n for wanted in (default, like) for n, r in recipes.items() if r == wanted), None)
    if name is None or recipes[name] == default:
        return name, ""
    differs = []
    if recipes[name].per_token != default.per_token:
        differs.append("per token" if recipes[name].per_token else "with one scale a tensor")
    if recipes[name].fast_math != default.fast_math:
        differs.append("strict" if not recipes[name].fast_math else "with fast arithmetic")
    return name, f"measured here {' and '.join(differs)} as"
