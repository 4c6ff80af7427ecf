"""What `nvfp4viz doctor --verify` found on a machine, short enough to be sent: card, engines, cases, versions."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from ..engine import result_line
from ..files import replacing

FORMAT = "nvfp4viz-certificate-1"
AGAINST = "outputs of FlashInfer's kernels, built for an H100 (sm_90a)"


def certificate(report: dict) -> dict:
    """The part of a doctor's report that tells of machine and engines, JSON-ready."""
    results = {r["engine"]: r for r in report["verify"]}
    return {
        "format": FORMAT,
        "date": datetime.date.today().isoformat(),
        "ok": all(r["ok"] for r in results.values()),
        "gpus": report["gpus"],
        "versions": report["versions"],
        "golden_cases": AGAINST,
        "engines": [_engine(row, results.get(row["name"])) for row in report["engines"]],
    }


def _engine(row: dict, result: dict | None) -> dict:
    if result is None:
        return {"engine": row["name"], "ran": False, "why_not": row["why_not"]}
    return {"ran": True, **result, "result": result_line(result)}


def lines(values: dict) -> list[str]:
    """The certificate as text."""
    gpus = [f"{g['name']}, compute capability {g['capability']}" for g in values["gpus"]]
    versions = ", ".join(f"{name} {version}" for name, version in values["versions"].items())
    column = max(len(e["engine"]) for e in values["engines"])
    return [
        f"nvfp4viz certificate, {values['date']}: {'every engine that ran is right' if values['ok'] else 'NOT RIGHT'}",
        f"card      {'; '.join(gpus) or 'none that torch can use: nothing here was run on a GPU'}",
        f"driver    {values['versions'].get('nvidia driver', 'none found')}",
        f"versions  {versions}",
        f"cases     {values['golden_cases']}",
        *(f"  {e['engine']:{column}}  {e['result'] if e['ran'] else 'not run: ' + _one_line(e['why_not'])}"
          for e in values["engines"]),
    ]  # fmt: skip


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def write(report: dict, path: str) -> None:
    """Write the certificate, whole or not at all: as JSON where the file is called so, else as text."""
    values = certificate(report)
    text = json.dumps(values, indent=2) if Path(path).suffix.lower() == ".json" else "\n".join(lines(values))
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
