"""What runs where nobody says a word, and which measured recipe stands for it."""

from __future__ import annotations

from dataclasses import replace

from ..environment import PROGRAMS, SITES, default_recipe, recipe_from_environment, sites
from ..nvfp4 import Recipe, study_only

FLASHINFER = "FlashInfer's 4over6 default"
SGLANG = "SGLang's default"
STUDY = "to study only"  # the role of a recipe that no engine runs
DEFAULTS = {  # what runs in an environment that says no more
    FLASHINFER: recipe_from_environment({"FLASHINFER_NVFP4_4OVER6": "1"}, "flashinfer"),
    SGLANG: default_recipe("sglang", "fc1"),  # its experts' input, as the doctor reads an empty environment
}


def changes(old: Recipe, new: Recipe) -> list[str]:
    """All that running one recipe in place of another changes, a phrase each; nothing where they are equal."""
    phrases = []
    if new.per_token != old.per_token:
        phrases.append(
            "one scale a token instead of a tensor" if new.per_token else "one scale a tensor instead of a token"
        )
    if new.fast_math != old.fast_math:
        phrases.append("FlashInfer's fast arithmetic" if new.fast_math else "strict arithmetic instead of the fast one")
    if new.four_over_six != old.four_over_six:
        phrases.append("4over6, chosen by " + new.err_mode if new.four_over_six else "no 4over6")
    elif new.four_over_six and new.err_mode != old.err_mode:
        phrases.append(f"blocks choose by {new.err_mode} instead of {old.err_mode}")
    if new.err_use_fast_math != old.err_use_fast_math:
        phrases.append("candidates scored in fp16" if new.err_use_fast_math else "candidates scored exactly")
    if new.e4m3_max != old.e4m3_max:
        phrases.append(f"the ceiling {new.e4m3_max:g} instead of {old.e4m3_max:g}")
    return phrases


def defaults_at(program: str, site: str | None = None) -> dict[str, Recipe]:
    """Role -> what runs where nobody says a word, at a site of a program; None: the first that it has.

    Raises ValueError for one that is not known, or where a site is not quantized.
    """
    site = site or sites({}, program, {}, None)[0].site
    if (program, site) == ("sglang", "fc1"):
        return DEFAULTS
    default = default_recipe(program, site)
    if default is None:
        raise ValueError(
            f"{PROGRAMS[program]} does not quantize {SITES[site]} by default: there is nothing to compare with"
        )
    return {FLASHINFER: DEFAULTS[FLASHINFER], f"{PROGRAMS[program]}'s default for {SITES[site]}": default}


def marked(name: str, recipe: Recipe | None = None) -> str:
    """A recipe's name as a person is shown it, marked where no engine runs it; its settings are what the name says.

    >>> marked("mine", Recipe(300, four_over_six=True)), marked("standard-256"), marked("standard")
    ('mine (study only)', 'standard-256 (study only)', 'standard')
    """
    try:
        recipe = recipe or Recipe.parse(name)
    except ValueError:  # a name of somebody's own
        return name
    return f"{name} (study only)" if study_only(recipe) else name


def called(role: str, name: str) -> str:
    """A recipe by its role in a sentence: "SGLang's default, standard", "4/6-mae-300, which is to study only"."""
    if role == STUDY:
        return f"{name}, which is {role}"
    return f"{role} {name}" if role.endswith(" as") else f"{role}, {name}" if role else name


def is_default(role: str) -> bool:
    """Whether a role is that of a default."""
    return "default" in role


def roles(
    recipes: dict[str, Recipe], order: list[str], defaults: dict[str, Recipe] = DEFAULTS
) -> list[tuple[str, str]]:
    """What the named recipe, the first in order, is compared with: the defaults, then the others from the best on."""
    found = []
    for role, default in defaults.items():
        name, near = _find(recipes, order[0], default)
        if name not in (None, order[0]):
            found.append((role if not near else f"{role}, {default.name}, {near}", name))
    others = [n for n in order[1:] if n not in {name for _, name in found}]
    second = {order[1]: "the runner-up"} if others else {}
    return found + [(STUDY if study_only(recipes[n]) else second.get(n, "another recipe"), n) for n in others]


def default_among(recipes: dict[str, Recipe], best: str, role: str = SGLANG) -> str | None:
    """The name of a default, or of what stands for it beside the best recipe; None where neither was measured."""
    return _find(recipes, best, DEFAULTS[role])[0]


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
