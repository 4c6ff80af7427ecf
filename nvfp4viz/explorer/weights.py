"""A checkpoint's weights as a sweep, so that what shows activations shows them: rows are tokens, columns features."""

from __future__ import annotations

from functools import reduce
from operator import add

from ..analysis import Sweep, versions
from ..checkpoints import STORED, Checkpoint, Comparison, decode, row_chunks, stored_rows
from ..files import sha256
from ..stats import Stats, measure

ELEMENTS = 1 << 22  # at a time


def weights_sweep(checkpoint: Checkpoint, compared: Comparison | None = None) -> Sweep:
    """Statistics of a checkpoint's weights, by matrix.

    Args:    compared: from `against`, with the errors against the original and those of other recipes; without it the
             block scales and codes as they are stored, whose error nobody knows.
    Returns: Sweep. As stored is under the name of the recipe that codes and scales tell, such as "standard-tensor". A
             matrix whose scale decodes nothing is in `.skipped`.
    """
    recipe, skipped = checkpoint.recipe, {}
    if compared is not None:
        stats = {name: _by_recipe(row, recipe.name) for name, row in compared.stats.items()}
        skipped = dict(compared.unmatched)
    else:
        stats = {}
        for name, m in checkpoint.matrices.items():
            try:
                stats[name] = {recipe.name: _as_stored(checkpoint, name)} if m.scales is not None else {}
            except ValueError as error:
                skipped[name] = str(error)
        skipped |= {name: "it has no block scales that fit" for name, row in stats.items() if not row}
        stats = {name: row for name, row in stats.items() if row}
    recipes = {name: s.recipe for row in list(stats.values())[:1] for name, s in row.items()}
    sources = [{**f, "sha256": sha256(f["path"])} for f in checkpoint.files]
    return Sweep.of(
        stats,
        recipes,
        {**versions(), "sources": sources, "checkpoint": str(checkpoint.path), "interrupted": False},
        skipped,
    )


def _by_recipe(row: dict[str, Stats], stored: str) -> dict[str, Stats]:
    """Under names that read back as recipes; what is stored stands for its own."""
    rest = {s.recipe.name: s for name, s in row.items() if name != STORED}
    return {stored: row[STORED]} | {name: s for name, s in rest.items() if name != stored}


def _as_stored(checkpoint: Checkpoint, name: str) -> Stats:
    m = checkpoint.matrices[name]
    parts = [
        measure(decode(m, first, stop), stored_rows(checkpoint, m, first, stop), first_token=first)
        for first, stop in row_chunks(m, ELEMENTS)
    ]
    return reduce(add, parts)
