"""What the author of a value meant, where no reader takes it so: the nearest valid value of the same meaning."""

from __future__ import annotations

import difflib
import re
import unicodedata

from .rules import VARIABLES

ON = {"1", "true", "yes", "y", "on", "t", "01", "enable", "enabled", "+1", "1.0"}
OFF = {"0", "false", "no", "n", "off", "", "none", "f", "disable", "disabled", "00", "null", "nil"}
SCOPES = ("none", "weights", "activations", "all")
_MODES = {"MSE": ("mse", "square", "sq", "l2", "rmse"), "MAE": ("mae", "abs", "l1", "mean")}


def word(text: str) -> str:
    """A value without what only a file's reader would take off: blanks of any kind, quotes, a comment; in lower case.

    >>> word("'1' # on"), word("\uff11"), word("MSE ")
    ('1', '1', 'mse')
    """
    text = unicodedata.normalize("NFKC", text[:200])
    text = re.split(r"(?<=\S)#|\s#|;", text)[0]
    return re.sub(r"^[^\w+-]+|\W+$", "", text).lower()


def scoped(name: str) -> bool:
    return name in ("NVTE_NVFP4_4OVER6", "NVTE_NVFP4_4OVER6_E4M3_USE_256")


def intended(name: str, text: str) -> str:
    """The valid value that a text of a variable comes nearest to.

    >>> intended("NVTE_NVFP4_4OVER6", "1"), intended("FLASHINFER_NVFP4_4OVER6_ERR_MODE", "MSE ")
    ('all', 'MSE')
    """
    meant = word(text)
    if VARIABLES[name].part == "err_mode":
        return next((m for m, signs in _MODES.items() if any(s in meant for s in signs)), "MAE")
    if scoped(name):
        near = difflib.get_close_matches(meant, SCOPES, n=1, cutoff=0.6)
        return near[0] if near else "all" if meant in ON else "none"
    return str(int(meant in ON))
