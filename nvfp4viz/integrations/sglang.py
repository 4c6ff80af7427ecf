"""Record from a running SGLang server, through its forward hooks.

    python -m sglang.launch_server --model-path ... --disable-cuda-graph --forward-hooks '[{
        "name": "nvfp4viz", "target_modules": ["*.mlp.down_proj"],
        "hook_factory": "nvfp4viz.integrations.sglang:record",
        "config": {"recipes": ["standard", "4/6-mae-448"], "output": "/tmp/sweep.json"}}]'

CUDA graphs must be off: their replay runs no hook. Each rank writes a file of its own (`sweep.rank1.json`), and layers
whose input is split over ranks are named by their shard, so `Sweep.load(a) + Sweep.load(b)` is the whole model.
"""

from __future__ import annotations

import atexit
import contextlib
import inspect
import warnings
import weakref
from collections import Counter
from pathlib import Path

import torch
from torch import nn

from ..model import Recorder, rank
from ..nvfp4 import RECIPES

DEFAULTS = {
    "recipes": list(RECIPES),  # short names
    "output": "nvfp4viz-sweep.json",  # of rank 0; the others put .rankN before the suffix
    "engine": "auto",
    "every": 100,  # forward passes between two writes: a server that is killed runs nothing at exit
}


def record(config: dict):
    """A forward hook that adds the inputs of all modules it is registered on to one sweep, written to a file.

    Args:    config: any of `recipes`, `output`, `engine`, `every`, see DEFAULTS.
    Returns: hook(module, inputs, output), which changes nothing and never raises; its `.recorder` has what it recorded.
    Raises ValueError for an unknown key, FileNotFoundError where the output's folder is missing.
    """
    unknown = set(config) - set(DEFAULTS)
    if unknown:
        raise ValueError(f"config has no key {sorted(unknown)}: known are {', '.join(DEFAULTS)}")
    settings = DEFAULTS | config
    output, every = Path(settings["output"]), int(settings["every"])
    if output.suffix != ".json" or every < 1:
        raise ValueError(f"output={str(output)!r}, every={every}: output is a .json, every is at least 1")
    if not output.parent.is_dir():
        raise FileNotFoundError(
            f"folder {str(output.parent)!r} does not exist: create it, or choose another output path"
        )
    recorder = Recorder(recipes=settings["recipes"], engine=settings["engine"])
    frame = inspect.currentframe()
    names = Names(frame.f_back.f_locals.get("model") if frame and frame.f_back else None)

    def save() -> None:
        many = torch.distributed.is_available() and torch.distributed.is_initialized()
        many = many and torch.distributed.get_world_size() > 1
        path = output.with_suffix(f".rank{rank()}.json") if many and rank() else output
        try:
            recorder.sweep().save(path)
        except Exception as error:  # nothing recorded yet, or a full disk: the server goes on
            with contextlib.suppress(Warning):
                warnings.warn(f"nvfp4viz could not write {str(path)!r}: {error}", stacklevel=2)

    def hook(module, inputs, output):
        with contextlib.suppress(Exception):
            name = names[module]
            done = recorder.calls[name]
            if name == names.first and done and done % every == 0:  # between two passes
                save()
            recorder.observe(name, module, inputs)

    hook.recorder = recorder
    atexit.register(save)
    return hook


class Names:
    """A name for each module, the same in every run: SGLang calls the hook without saying on which module it is.

    The model's own name of it where the model is known, which SGLang's `register_forward_hooks` holds as `model` while
    it calls the factory; else the `prefix` that some layers keep; else class, weight shape and a number by first call.
    """

    def __init__(self, model=None):
        modules = model.named_modules() if isinstance(model, nn.Module) else ()
        self._names = weakref.WeakKeyDictionary({module: name for name, module in modules if name})
        self._used = Counter(self._names.values())
        self.first: str | None = None  # the module that was called first: it tells forward passes apart

    def __getitem__(self, module: nn.Module) -> str:
        if module not in self._names:
            self._names[module] = self._invent(module)
        self.first = self.first or self._names[module]
        return self._names[module]

    def _invent(self, module: nn.Module) -> str:
        prefix = getattr(module, "prefix", None)
        if isinstance(prefix, str) and prefix and not self._used[prefix]:
            self._used[prefix] += 1
            return prefix
        weight = getattr(module, "weight", None)
        kind = type(module).__name__ + (f" {'x'.join(map(str, weight.shape))}" if weight is not None else "")
        self._used[kind] += 1
        return f"{kind} #{self._used[kind] - 1}"
