"""Files of published wheels, as tests read them: `make wheels` fetches what they want."""

import zipfile
from pathlib import Path

import pytest

WHEELS = Path(__file__).parents[1] / ".cache" / "wheels"


def wheel_file(distribution: str, version: str, member: str) -> str:
    """One file of a wheel, or what scripts/wheel_files.py fetched of it; where neither is, the test is skipped."""
    single = WHEELS / f"{distribution}-{version}" / member
    if single.exists():
        return single.read_text(encoding="utf-8")
    found = sorted(WHEELS.glob(f"{distribution}-{version}-*.whl"))
    if not found:
        pytest.skip(f"{distribution} {version} is not in .cache/wheels: make wheels fetches it")
    return zipfile.ZipFile(found[0]).read(member).decode()
