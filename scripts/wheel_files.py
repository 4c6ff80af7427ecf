"""Single files of a published wheel, without the rest: python scripts/wheel_files.py DIST==VERSION FOLDER FILE...

Hundreds of megabytes stay where they are: PyPI answers HTTP ranges, and a wheel is a ZIP with its directory at the end.
The files lie under FOLDER/DIST-VERSION/; what is there already is not fetched again.
"""

from __future__ import annotations

import io
import json
import sys
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

CHUNK = 1 << 18


class Remote(io.RawIOBase):
    """A file behind HTTP ranges, read in chunks."""

    def __init__(self, url: str, size: int):
        self.url, self.size, self.at, self.chunks = url, size, 0, {}

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer) -> int:
        data = self._chunk(self.at // CHUNK)[self.at % CHUNK :][: len(buffer)]
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)

    def _chunk(self, i: int) -> bytes:
        if i * CHUNK >= self.size:
            return b""
        if i not in self.chunks:
            last = min(self.size, (i + 1) * CHUNK) - 1
            request = urllib.request.Request(self.url, headers={"Range": f"bytes={i * CHUNK}-{last}"})
            with urllib.request.urlopen(request, timeout=180) as answer:
                if answer.status != 206:
                    raise OSError(f"{self.url}: the server sends no ranges (status {answer.status})")
                self.chunks[i] = answer.read()
        return self.chunks[i]


def wheel(distribution: str, version: str) -> tuple[str, int]:
    """Address and size of a wheel on PyPI; one for Linux on x86-64 where there are several."""
    index = f"https://pypi.org/simple/{distribution}/"
    request = urllib.request.Request(index, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with urllib.request.urlopen(request, timeout=180) as answer:
        start = f"{distribution.replace('-', '_')}-{version}-"
        files = [f for f in json.load(answer)["files"] if f["filename"].startswith(start)]
    files = sorted((f for f in files if f["filename"].endswith(".whl")), key=lambda f: "x86_64" not in f["filename"])
    if not files:
        raise OSError(f"{distribution} {version} has no wheel on PyPI")
    return urllib.parse.urljoin(index, files[0]["url"]), files[0]["size"]


def fetch(requirement: str, folder: Path, names: list[str]) -> None:
    distribution, version = requirement.split("==")
    target = folder / f"{distribution}-{version}"
    missing = [n for n in names if not (target / n).exists()]
    if not missing:
        return
    archive = zipfile.ZipFile(io.BufferedReader(Remote(*wheel(distribution, version)), CHUNK))
    for name in missing:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(archive.read(name))


if __name__ == "__main__":
    fetch(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
