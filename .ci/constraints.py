"""Prints a pin for each package of the environment that runs it; `make constraints` writes them to constraints.txt."""

from importlib.metadata import distributions

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

SUPPORTED = ("3.10.0", "3.11.0", "3.12.0", "3.13.0", "3.14.0")
BOUND = {  # pinned where the other is, which sets its range
    "docutils": "sphinx", "markdown-it-py": "myst-parser", "mdit-py-plugins": "myst-parser", "myst-nb": "myst-parser",
}  # fmt: skip

packages = {canonicalize_name(dist.name): dist for dist in distributions()}
print("# What CI proves, written by `make constraints`: every package that pyproject.toml and its extras resolve to.")
print("# A pin that some supported Python cannot install carries that package's own Requires-Python as its marker.")
for name, dist in sorted(packages.items()):
    if name in ("nvfp4viz", "pip"):
        continue
    pin = f"{name}=={Version(dist.version).public}"  # public: torch 2.13.0+cpu and torch 2.13.0 are both meant
    requires = SpecifierSet(packages.get(BOUND.get(name, name), dist).metadata["Requires-Python"] or "")
    if not all(python in requires for python in SUPPORTED):
        marker = " and ".join(f'python_full_version {s.operator} "{s.version}"' for s in sorted(requires, key=str))
        pin += f"; {marker}"
    print(pin)
