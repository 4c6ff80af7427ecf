"""Prints a pin for each package of the environment that runs it; `make constraints` writes them to constraints.txt."""

from importlib.metadata import distributions

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

SUPPORTED = ("3.10.0", "3.11.0", "3.12.0", "3.13.0", "3.14.0")

print("# What CI proves, written by `make constraints`: every package that pyproject.toml and its extras resolve to.")
print("# A pin that some supported Python cannot install carries that package's own Requires-Python as its marker.")
for dist in sorted(distributions(), key=lambda dist: canonicalize_name(dist.name)):
    name = canonicalize_name(dist.name)
    if name in ("nvfp4viz", "pip"):
        continue
    pin = f"{name}=={Version(dist.version).public}"  # public: torch 2.13.0+cpu and torch 2.13.0 are both meant
    requires = SpecifierSet(dist.metadata["Requires-Python"] or "")
    if not all(python in requires for python in SUPPORTED):
        marker = " and ".join(f'python_full_version {s.operator} "{s.version}"' for s in sorted(requires, key=str))
        pin += f"; {marker}"
    print(pin)
