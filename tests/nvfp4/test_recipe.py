"""Recipes: their limits, their names and back, and one style each."""

import json
import re
import warnings
from dataclasses import FrozenInstanceError, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvfp4viz import RECIPES, Recipe
from nvfp4viz.catalog import STYLES, style
from nvfp4viz.nvfp4 import E4M3_VALUES, as_recipe, as_recipes

CEILINGS = st.one_of(
    st.floats(0, 448, exclude_min=True, allow_subnormal=True),
    st.sampled_from([448, 256, 160, 320, 1e-3, 447.9999, 1 / 3, 1e-300, 5e-324]),
)
ANY_RECIPE = st.builds(
    Recipe,
    CEILINGS,
    four_over_six=st.booleans(),
    err_mode=st.sampled_from(["MAE", "MSE"]),
    err_use_fast_math=st.booleans(),
    per_token=st.booleans(),
    fast_math=st.booleans(),
    scored_as=st.none() | CEILINGS,
)


def test_the_named_recipes_in_their_order():
    assert list(RECIPES) == ["standard", "4/6-mae-448", "4/6-mse-448", "4/6-mae-256", "4/6-mse-256"]
    assert all(r.per_token and not r.fast_math and not r.err_use_fast_math for r in RECIPES.values())
    assert Recipe() == RECIPES["standard"] == Recipe(448)
    assert repr(Recipe(256, four_over_six=True)) == "Recipe(256, four_over_six=True)"
    assert RECIPES["4/6-mse-256"] == Recipe(256, four_over_six=True, err_mode="MSE")


@given(ANY_RECIPE)
def test_a_name_reads_back(recipe):
    assert Recipe.parse(recipe.name) == recipe
    assert Recipe.parse(f"  {recipe.name.upper()} ") == recipe
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert eval(repr(recipe)) == recipe


@given(ANY_RECIPE, ANY_RECIPE)
def test_different_recipes_have_different_names(a, b):
    assert (a.name == b.name) == (a == b)


@pytest.mark.parametrize(
    "recipe, name",
    [
        (Recipe(256), "standard-256"),
        (Recipe(err_mode="mse"), "standard-mse"),
        (Recipe(four_over_six=True, err_use_fast_math=True, per_token=False, fast_math=True),
         "4/6-mae-448-fp16err-tensor-fast"),
        (Recipe(256, four_over_six=True, scored_as=448), "4/6-mae-256-scored448"),
        (Recipe(447.9999), "standard-447.9999"),
        (Recipe(0.001), "standard-0.001"),
        (Recipe(1e-7), "standard-1e-07"),
    ],
)  # fmt: skip
def test_names_are_short(recipe, name):
    assert recipe.name == name


@pytest.mark.parametrize(
    "value", [0, -0.0, -1, 448.0001, 449, float("nan"), float("inf"), "256", None, True, 1j, [256], np.array([256.0])]
)
@pytest.mark.parametrize("field", ["e4m3_max", "scored_as"])
def test_a_ceiling_outside_e4m3_is_refused(field, value):
    if field == "scored_as" and value is None:
        return  # its default
    with pytest.raises(ValueError, match=re.escape(f"{field}={value!r} is no number in (0, 448]")):
        Recipe(**{field: value})


@pytest.mark.parametrize("value", [256, 256.0, np.float32(256), np.float64(256), np.int64(256), Fraction(256)])
def test_any_real_number_is_a_ceiling(value):
    assert Recipe(value) == Recipe(256) and type(Recipe(value).e4m3_max) is float


@pytest.mark.parametrize("field", ["four_over_six", "err_use_fast_math", "per_token", "fast_math"])
@pytest.mark.parametrize("value", [1, 0, "yes", None, np.True_])
def test_flags_are_true_or_false(field, value):
    with pytest.raises(TypeError, match=f"{field}=.* is not True or False"):
        Recipe(**{field: value})


@pytest.mark.parametrize("mode", ["L1", "", None, 2])
def test_unknown_error_modes_are_refused(mode):
    with pytest.raises(ValueError, match=r'err_mode=.*use "MAE" or "MSE"'):
        Recipe(err_mode=mode)


@pytest.mark.parametrize(
    "name, near",
    [
        ("4/6-mse-265", None),  # a ceiling like any other
        ("4/6-msa-256", "'4/6-mse-256'"),
        ("standrad", "'standard'"),
        ("46-mae-448", "'4/6-mae-448'"),
        ("4/6-mae", "'4/6-mae-448'"),
        ("4/6-mae-448-mse", "'4/6-mae-448'"),
    ],
)
def test_an_unknown_name_is_answered_with_near_ones(name, near):
    if near is None:
        assert Recipe.parse(name).e4m3_max == 265
        return
    with pytest.raises(ValueError, match=re.escape(f"unknown recipe {name!r}, did you mean ")) as raised:
        Recipe.parse(name)
    assert near in str(raised.value) and "-tensor" in str(raised.value)


@pytest.mark.parametrize("name", ["", "standard-", "standard-0x10", "4/6-mae-٤٤٨x", 448, None, "standard-fast-tensor"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match="unknown recipe"):
        Recipe.parse(name)


@pytest.mark.parametrize("name", ["standard-0", "4/6-mae-449", "standard-1e5"])
def test_a_name_with_a_ceiling_outside_e4m3_is_refused(name):
    with pytest.raises(ValueError, match=r"\(0, 448\]|unknown recipe"):
        Recipe.parse(name)


def test_a_recipe_of_a_newer_version_is_refused():
    with pytest.raises(ValueError, match="rotation"):
        Recipe.from_dict(Recipe().to_dict() | {"rotation": 1})


def test_a_recipe_cannot_change():
    with pytest.raises(FrozenInstanceError):
        Recipe().e4m3_max = 256
    assert hash(Recipe(256)) == hash(Recipe(256.0))


def test_recipes_come_in_any_container():
    wanted = {"standard": Recipe(), "4/6-mae-256": Recipe(256, four_over_six=True)}
    assert as_recipes(list(wanted)) == as_recipes(iter(wanted.values())) == wanted
    assert as_recipes("standard") == as_recipes(Recipe()) == {"standard": Recipe()}
    assert as_recipes({"mine": "4/6-mae-256"}) == {"mine": wanted["4/6-mae-256"]}
    assert as_recipe("standard") == as_recipe(Recipe()) == Recipe()
    assert list(as_recipes(["4/6-mse-448", "standard"])) == ["4/6-mse-448", "standard"]


def test_each_named_recipe_has_a_style_of_its_own():
    styles = [style(r) for r in RECIPES.values()]
    for part in ("color", "marker", "dash"):
        assert len({s[part] for s in styles}) == len(RECIPES)
    assert [style(replace(r, per_token=False, fast_math=True)) for r in RECIPES.values()] == styles
    assert style(Recipe(299, four_over_six=True)) == STYLES["4/6-mae-448"]
    assert style(Recipe(160, four_over_six=True, err_mode="MSE")) == STYLES["4/6-mse-256"]
    assert style(Recipe(160)) == STYLES["standard"]


def _contrast(a: str, b: str) -> float:
    def luminance(color):
        values = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return np.dot(linear, [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("color", [s["color"] for s in STYLES.values()])
def test_colours_stand_out_on_white_and_on_black(color):
    """WCAG 2.1 asks for 3 between graphics and their background."""
    assert min(_contrast(color, "#FFFFFF"), _contrast(color, "#111111")) >= 3


def test_a_mistyped_ceiling_is_pointed_out_once_with_what_it_may_mean():
    with pytest.warns(UserWarning, match="no engine has the ceiling 266: did you mean 256"):
        Recipe(266, four_over_six=True)
    with pytest.warns(UserWarning, match="no engine has the ceiling 444: did you mean 448"):
        as_recipes(["standard-444"])
    with warnings.catch_warnings(action="error"):
        Recipe.parse("4/6-mae-266-tensor")
        for ceiling in (*E4M3_VALUES[1:], 300, 100.5):
            Recipe(ceiling), Recipe(ceiling, four_over_six=True)
