"""Fill nvfp4viz/environment/costs.json, what each recipe of a program costs: python scripts/environment_costs.py

The SQNR of the bundled activations, all tensors taken together, with the engine and the version that computed it.
"""

import itertools
import json
from pathlib import Path

import nvfp4viz
from nvfp4viz import Recipe

ROOT = Path(__file__).parent.parent
DATA = ROOT / "data" / "smollm2-135m-activations.safetensors"
TABLE = ROOT / "nvfp4viz" / "environment" / "costs.json"


def recipes() -> list[Recipe]:
    """All that a site of environment/programs.py can run: both ceilings, scored for either, every switch."""
    switches = list(itertools.product((True, False), repeat=2))
    found = [Recipe(per_token=token, fast_math=fast) for token, fast in switches]
    for token, fast in switches:
        for ceiling, scored, mode, fp16 in itertools.product((448, 256), (448, 256), ("MAE", "MSE"), (False, True)):
            found.append(
                Recipe(
                    ceiling,
                    four_over_six=True,
                    err_mode=mode,
                    err_use_fast_math=fp16,
                    per_token=token,
                    fast_math=fast,
                    scored_as=scored,
                )
            )
    return found


def main() -> None:
    sweep = nvfp4viz.sweep(nvfp4viz.load(DATA), recipes())
    engines = sorted(set(sweep.table()["engine"]))
    table = {
        "data": DATA.name,
        "engine": ", ".join(engines),
        "version": nvfp4viz.__version__,
        "tensors": len(sweep.table()["tensor"].unique()),
        "sqnr_db": {r: round(sweep.total(r).sqnr_db, 3) for r in sweep.recipes},
    }
    TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
