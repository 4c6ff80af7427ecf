"""What a checkpoint's configuration says of its quantization: config.json, and ModelOpt's hf_quant_config.json."""

from __future__ import annotations

import fnmatch
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from .headers import read_json

BUDGET_S = 3.0  # for all patterns of a config together
LONGEST = 300  # characters of a name or pattern that is matched


@dataclass
class Config:
    """What is to be quantized, and how, in the words of the file."""

    found: bool = False  # some file says something of quantization
    method: str = ""  # "modelopt", "compressed-tensors", ...
    algorithm: str = ""  # "NVFP4", "nvfp4-pack-quantized", ...
    producer: str = ""  # tool and version
    ignore: tuple[str, ...] = ()  # modules that stay in high precision, as patterns
    static_inputs: bool | None = None  # inputs are quantized with a scale of the checkpoint's; None: not said
    group_sizes: tuple[int, ...] = ()
    quantized: tuple[str, ...] = ()  # layers that a mixed-precision config lists
    spent: float = field(default=0.0, repr=False)  # seconds in patterns
    unread: set[str] = field(default_factory=set, repr=False)  # patterns that are too costly, or none

    def ignores(self, module: str) -> str | None:
        """The pattern that leaves a module unquantized, or None."""
        return next((p for p in self.ignore if self._matches(p, module[:LONGEST])), None)

    def _matches(self, pattern: str, module: str) -> bool:
        if pattern in self.unread or len(pattern) > LONGEST:
            self.unread.add(pattern)
            return False
        if not pattern.startswith("re:"):
            if pattern == module or module.startswith(pattern.removesuffix(".*").removesuffix("*").rstrip(".") + "."):
                return True
            return "*" in pattern and fnmatch.fnmatchcase(module, pattern)
        start = time.monotonic()
        try:
            if _costly(pattern[3:]) or self.spent > BUDGET_S:
                raise ValueError
            return re.match(pattern[3:], module) is not None
        except (re.error, ValueError, RecursionError, OverflowError):
            self.unread.add(pattern)
            return False
        finally:
            self.spent += time.monotonic() - start


def _costly(pattern: str) -> bool:
    """Whether a stranger's pattern may take exponential time: a repeated group that repeats, or many repetitions."""
    return re.search(r"[*+}?]\)*\)[*+{]|\|[^()]*\)[*+{]", pattern) is not None or len(re.findall(r"[*+{]", pattern)) > 4


def read_config(folder: Path) -> tuple[Config, dict]:
    """What the files of a folder say, and the model's own config; an empty Config where there is no file.

    Raises ValueError of one line where a file is no JSON object.
    """
    values = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    inner = values.get("quantization_config") or _text_config(values).get("quantization_config")
    config = Config()
    if isinstance(inner, dict):
        config = _of_huggingface(inner)
    if (folder / "hf_quant_config.json").is_file():
        config = _of_modelopt(read_json(folder / "hf_quant_config.json"), config)
    return config, values


def _text_config(values: dict) -> dict:
    inner = values.get("text_config")
    return inner if isinstance(inner, dict) else {}


def _words(value) -> tuple[str, ...]:
    return tuple(v for v in value if isinstance(v, str))[:100_000] if isinstance(value, list) else ()


def _producer(value) -> str:
    return " ".join(str(value[k]) for k in ("name", "version") if k in value) if isinstance(value, dict) else ""


def _of_huggingface(values: dict) -> Config:
    groups = values.get("config_groups")
    groups = [g for g in groups.values() if isinstance(g, dict)] if isinstance(groups, dict) else []
    inputs = [g["input_activations"] for g in groups if isinstance(g.get("input_activations"), dict)]
    parts = [g[p] for g in groups for p in ("weights", "input_activations") if isinstance(g.get(p), dict)]
    method = str(values.get("quant_method", ""))
    version = f" {values['version']}" if "version" in values and method == "compressed-tensors" else ""
    static = any(i.get("dynamic") in (False, "local", None) for i in inputs) if groups else None
    algorithm = str(values.get("quant_algo") or values.get("format") or "")
    if "W4A16" in algorithm.upper():
        static = False
    return Config(
        found=True,
        method=method,
        algorithm=algorithm,
        producer=_producer(values.get("producer")) or method + version,
        ignore=_words(values.get("ignore") or values.get("exclude_modules") or values.get("modules_to_not_convert")),
        static_inputs=static,
        group_sizes=tuple(sorted({p["group_size"] for p in parts if isinstance(p.get("group_size"), int)})),
    )


def _of_modelopt(values: dict, base: Config) -> Config:
    inner = values.get("quantization")
    inner = inner if isinstance(inner, dict) else {}
    algorithm, layers = str(inner.get("quant_algo") or base.algorithm), inner.get("quantized_layers")
    static = base.static_inputs
    if algorithm in ("NVFP4", "NVFP4_AWQ"):
        static = True
    elif "W4A16" in algorithm:
        static = False
    size = inner.get("group_size")
    return Config(
        found=True,
        method=base.method or "modelopt",
        algorithm=algorithm,
        producer=_producer(values.get("producer")) or base.producer,
        ignore=tuple(dict.fromkeys((*_words(inner.get("exclude_modules")), *base.ignore))),
        static_inputs=static,
        group_sizes=tuple(sorted({*base.group_sizes, *([size] if isinstance(size, int) else [])})),
        quantized=tuple(map(str, layers)) if isinstance(layers, dict) else (),
    )
