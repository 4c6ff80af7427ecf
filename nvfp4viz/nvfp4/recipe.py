"""A recipe is all that decides how a tensor is quantized; the named recipes, their order, and what engines offer."""

from __future__ import annotations

import difflib
import re
import warnings
from dataclasses import KW_ONLY, asdict, dataclass, fields
from numbers import Real

from .e4m3 import E4M3_MAX, E4M3_VALUES

OFFERED = {True: (448, 256), False: (448,)}  # ceilings that FlashInfer has, with 4over6 and without


@dataclass(frozen=True)
class Recipe:
    """All that decides how a tensor is quantized; passed whole, never as loose flags.

    `name` is short and reads back: `Recipe.parse(recipe.name) == recipe`.
    """

    e4m3_max: float = 448.0  # ceiling: the token's (tensor's) amax maps to a block scale of this size, in (0, 448]
    _: KW_ONLY
    four_over_six: bool = False  # each block may map its amax to 4 instead of 6
    err_mode: str = "MAE"  # "MAE" or "MSE": what a block compares to choose between 4 and 6
    err_use_fast_math: bool = False  # score candidates in the scaled domain with an fp16 product, else exactly
    per_token: bool = True  # one FP32 scale a row, else one a tensor
    fast_math: bool = False  # FlashInfer's default arithmetic, with an approximate reciprocal; else its strict mode
    scored_as: float | None = None  # ceiling that the candidate scores assume, where the caller's scale disagrees

    def __post_init__(self):
        ceilings = [("e4m3_max", self.e4m3_max)]
        if self.scored_as is not None:
            ceilings.append(("scored_as", self.scored_as))
        for field, value in ceilings:
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value <= E4M3_MAX:
                raise ValueError(
                    f"{field}={value!r} is no number in (0, 448]: E4M3 ends at 448; FlashInfer has 448 and 256"
                )
            object.__setattr__(self, field, float(value))
        if not isinstance(self.err_mode, str) or self.err_mode.upper() not in ("MAE", "MSE"):
            raise ValueError(f'err_mode={self.err_mode!r} is not an error mode: use "MAE" or "MSE"')
        object.__setattr__(self, "err_mode", self.err_mode.upper())
        for field in ("four_over_six", "err_use_fast_math", "per_token", "fast_math"):
            if not isinstance(getattr(self, field), bool):
                raise TypeError(f"{field}={getattr(self, field)!r} is not True or False")
        if self.scored_as == self.e4m3_max:
            object.__setattr__(self, "scored_as", None)
        if (near := _meant(self)) and (self.e4m3_max, near) not in _POINTED_OUT:
            _POINTED_OUT.add((self.e4m3_max, near))
            text = f"no engine has the ceiling {_shortest(self.e4m3_max)}: did you mean {near}?"
            warnings.warn(f"{text} It is taken as it is, to study.", stacklevel=3)

    def __repr__(self) -> str:
        """Such as `Recipe(256, four_over_six=True, err_mode='MSE')`: the fields that are not the default."""
        rest = [f.name for f in fields(self)[1:] if getattr(self, f.name) != f.default]
        words = [_shortest(self.e4m3_max), *(f"{name}={getattr(self, name)!r}" for name in rest)]
        return f"Recipe({', '.join(words)})"

    @property
    def score_e4m3_max(self) -> float:
        """The ceiling that a kernel's candidate scores divide by; `e4m3_max` unless two sides disagree."""
        return self.e4m3_max if self.scored_as is None else self.scored_as

    @property
    def name(self) -> str:
        """Short name, such as `4/6-mse-256`, `standard` or `4/6-mae-448-fp16err-tensor-fast`."""
        ceiling = _shortest(self.e4m3_max)
        if self.four_over_six:
            words = ["4/6", self.err_mode.lower(), ceiling]
        else:
            words = ["standard"] + ([ceiling] if self.e4m3_max != E4M3_MAX else [])
            words += ["mse"] if self.err_mode == "MSE" else []
        words += ["fp16err"] if self.err_use_fast_math else []
        words += [] if self.per_token else ["tensor"]
        words += ["fast"] if self.fast_math else []
        words += [] if self.scored_as is None else [f"scored{_shortest(self.scored_as)}"]
        return "-".join(words)

    @classmethod
    def parse(cls, name: str) -> Recipe:
        """The recipe of a short name; the inverse of `name`.

        >>> Recipe.parse("4/6-mse-256").e4m3_max
        256.0
        """
        known = r"(?P<kind>standard|4/6-(?P<mode>mae|mse))(-(?P<max>\d+(\.\d+)?(e-?\d+)?))?(?P<std_mse>-mse)?"
        flags = r"(?P<fp16err>-fp16err)?(?P<tensor>-tensor)?(?P<fast>-fast)?(-scored(?P<scored>\d+(\.\d+)?(e-?\d+)?))?"
        m = re.fullmatch(known + flags, name.strip().lower()) if isinstance(name, str) else None
        if m is None or (m["mode"] and (m["std_mse"] or not m["max"])):
            shown = repr(name) if isinstance(name, (str, int, float)) else f"of type {type(name).__name__}"
            near = difflib.get_close_matches(shown, RECIPES, n=3, cutoff=0.3)
            raise ValueError(
                f"unknown recipe {shown}"
                + (f", did you mean {' or '.join(map(repr, near))}?" if near else ":")
                + f" the named ones are {', '.join(RECIPES)}; add -fp16err, -tensor or -fast for variants"
            )
        return cls(
            float(m["max"] or E4M3_MAX),
            four_over_six=m["mode"] is not None,
            err_mode=(m["mode"] or ("mse" if m["std_mse"] else "mae")).upper(),
            err_use_fast_math=m["fp16err"] is not None,
            per_token=m["tensor"] is None,
            fast_math=m["fast"] is not None,
            scored_as=float(m["scored"]) if m["scored"] else None,
        )

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> Recipe:
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"a recipe has no field {sorted(unknown)}: written by a newer nvfp4viz?")
        return cls(**values)


def study_only(recipe: Recipe) -> str:
    """Why no engine runs a recipe, "" where one does; a ceiling that is likely mistyped is pointed out.

    >>> study_only(Recipe(300, four_over_six=True))
    'no engine has the ceiling 300, FlashInfer has 448 and 256: to study only'
    """
    if recipe.scored_as is not None:
        made, scored = map(_shortest, (recipe.e4m3_max, recipe.scored_as))
        return f"its scale is made for {made}, scored for {scored}: a fault, to study only"
    if recipe.e4m3_max in OFFERED[recipe.four_over_six]:
        return ""
    has = " and ".join(map(str, OFFERED[recipe.four_over_six])) + ("" if recipe.four_over_six else " without 4over6")
    hint = f"did you mean {near}?" if (near := _meant(recipe)) else "to study only"
    return f"no engine has the ceiling {_shortest(recipe.e4m3_max)}, FlashInfer has {has}: {hint}"


def _meant(recipe: Recipe) -> int | None:
    """The ceiling that a mistyped one may stand for: it is within 5 %, and this one is no E4M3 value to study."""
    near = min(OFFERED[recipe.four_over_six], key=lambda c: abs(c - recipe.e4m3_max))
    close = 0 < abs(near - recipe.e4m3_max) < 0.05 * near and recipe.e4m3_max not in E4M3_VALUES
    return near if close else None


_POINTED_OUT: set[tuple[float, int]] = set()  # mistyped ceilings are pointed out once, however often a recipe is made


def _shortest(number: float) -> str:
    """The shortest text that reads back as this number: 448, 0.1, 1e-05."""
    return repr(number).removesuffix(".0")


# standard, then 4over6 under both ceilings, each by both error modes; `name` says what each is called
_FOUR_OVER_SIX = [Recipe(e4m3_max, four_over_six=True, err_mode=m) for e4m3_max in (448, 256) for m in ("MAE", "MSE")]
RECIPES: dict[str, Recipe] = {r.name: r for r in (Recipe(), *_FOUR_OVER_SIX)}


def as_recipe(recipe: Recipe | str) -> Recipe:
    """A Recipe, from itself or from its short name."""
    return recipe if isinstance(recipe, Recipe) else Recipe.parse(recipe)


def as_recipes(recipes) -> dict[str, Recipe]:
    """Recipes by name, from a mapping, a sequence of recipes or names, or one of them."""
    if isinstance(recipes, (Recipe, str)):
        recipes = [recipes]
    if recipes is None:
        raise TypeError("recipes is None: give recipes or their short names, or leave it out for the named ones")
    if hasattr(recipes, "items"):
        return {str(name): as_recipe(r) for name, r in recipes.items()}
    return {r.name: r for r in map(as_recipe, recipes)}


def some_recipes(recipes) -> dict[str, Recipe]:
    """`as_recipes`; ValueError where there is none."""
    found = as_recipes(recipes)
    if not found:
        raise ValueError(f"no recipe given: the named ones are {', '.join(RECIPES)}")
    return found
