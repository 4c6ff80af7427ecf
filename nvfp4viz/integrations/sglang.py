"""Record from a running SGLang server, through its forward hooks.

    python -m sglang.launch_server --model-path ... --cuda-graph-backend-decode=disabled \\
        --cuda-graph-backend-prefill=disabled --forward-hooks '[{
        "name": "nvfp4viz", "target_modules": ["*.mlp.down_proj", "*.mlp.experts"],
        "hook_factory": "nvfp4viz.integrations.sglang:record",
        "config": {"recipes": ["standard", "4/6-mae-448"], "output": "/tmp/sweep.json"}}]'

CUDA graphs must be off (`--disable-cuda-graph` in older releases): their replay runs no hook. The file is there from
the first pass on. Each rank writes its own (`sweep.rank1.json`), and so does a draft model, which registers after the
target (`sweep.2.json`). Inputs that all ranks hold are in the first rank's file, those split over ranks are named by
their shard: the sum of the ranks' files, `Sweep.load(a) + Sweep.load(b)`, is the whole model, each token once.

Of fused experts: `....experts` is what they are called with, fc1's input before routing; `....experts.7.down_proj` is
fc2's by expert, computed again from the routing and bf16 weights. With packed weights it is out of reach, as is said.
"""

from __future__ import annotations

import atexit
import contextlib
import inspect
import weakref
from collections import Counter

from torch import nn

from ..nvfp4 import RECIPES
from .serving import Serving

DEFAULTS = {
    "recipes": list(RECIPES),  # short names
    "output": "nvfp4viz-sweep.json",  # of rank 0; the others put .rankN before the suffix
    "engine": "auto",
    "every": 100,  # forward passes between two writes: a server that is killed runs nothing at exit
}


def record(config: dict):
    """A forward hook that adds the inputs of all modules it is registered on to one sweep, written to a file.

    Where SGLang's `register_forward_hooks` calls this, its model and patterns are known: the inputs are then taken by
    pre-hooks of our own, which see keyword arguments, and inputs that a kernel overwrites later.

    Args:
        config: any of "recipes" (short names; the five of RECIPES), "output" (file of the first rank, the others put
                .rankN before the suffix; "nvfp4viz-sweep.json"), "engine" ("auto") and "every" (forward passes between
                two writes; 100).
    Returns: hook(module, inputs, output), which changes nothing and never raises; its `.recorder` has what it recorded.
    Raises ValueError for an unknown key, FileNotFoundError where the output's folder is missing.
    """
    unknown = set(config) - set(DEFAULTS)
    if unknown:
        raise ValueError(f"config has no key {sorted(unknown)}: known are {', '.join(DEFAULTS)}")
    settings = DEFAULTS | config
    serving = Serving(settings["recipes"], settings["output"], settings["engine"], int(settings["every"]))
    frame = inspect.currentframe()
    caller = frame.f_back.f_locals if frame and frame.f_back else {}
    model, patterns = caller.get("model"), caller.get("target_patterns")
    names = Names(model)
    if isinstance(model, nn.Module) and patterns:
        serving.attach(model, patterns)

    def hook(module, inputs, output):
        with contextlib.suppress(Exception):
            if module not in serving.names:  # its pre-hook has seen it otherwise
                serving.see(names[module], module, inputs)
            serving.after(module)

    hook.recorder = serving.recorder
    atexit.register(serving.save)
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

    def __getitem__(self, module: nn.Module) -> str:
        if module not in self._names:
            self._names[module] = self._invent(module)
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
