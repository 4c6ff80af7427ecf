"""What recording inside a serving engine needs, whichever it is: inputs as modules are called, fc2 of fused experts
worked out again, tokens that several ranks hold counted once, and files that outlive a kill.

An engine's block of experts (FusedMoE) quantizes fc2's input inside its kernel. Where its weights are bf16 and the call
says which experts each token goes to, that input is computed again from the same numbers; else it is out of reach, and
said to be.
"""

from __future__ import annotations

import contextlib
import fnmatch
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model import Recorder, rank

_written: Counter = Counter()  # path -> recorders of this process that write there: a draft model registers as well
_ACTIVATIONS: dict[str, Callable] = {"silu": F.silu, "gelu": F.gelu, "relu": F.relu}


class Serving:
    """A Recorder on modules of an engine's model, and the file that it is written to."""

    def __init__(self, recipes, output: str | Path, engine: str, every: int):
        output = Path(output)
        if output.suffix != ".json" or every < 1:
            raise ValueError(f"output={str(output)!r}, every={every}: output is a .json, every is at least 1")
        if not output.parent.is_dir():
            raise FileNotFoundError(
                f"folder {str(output.parent)!r} does not exist: create it, or choose another output path"
            )
        self.recorder = Recorder(recipes=recipes, engine=engine)
        _written[output.resolve()] += 1
        n = _written[output.resolve()]  # the first has the path, the draft models that follow a name beside it
        self.output = output if n == 1 else output.with_suffix(f".{n}.json")
        self.every, self.passes, self._saved = every, 0, 0
        self.names: dict[nn.Module, str] = {}
        self._first: nn.Module | None = None  # called first: its next call is the next pass
        self._handles: list = []

    def attach(self, model: nn.Module, patterns) -> None:
        """Pre-hooks, with keyword arguments, on modules whose name fits: kernels may overwrite their input."""
        fits = [(n, m) for n, m in model.named_modules() if any(fnmatch.fnmatch(n, p) for p in patterns)]
        for name, module in fits:
            if module not in self.names:
                self.names[module] = name
                self._handles.append(module.register_forward_pre_hook(self.before, with_kwargs=True))

    def detach(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def before(self, module: nn.Module, args, kwargs) -> None:
        """A pre-hook; never raises."""
        with contextlib.suppress(Exception):
            self.see(self.names[module], module, args, kwargs)

    def see(self, name: str, module: nn.Module, args, kwargs=None) -> None:
        """One call of a module, before or after it ran; a pass ends where its first module is called again."""
        if self._first is None:
            self._first = module
        elif self._first is module:
            self.end_pass()
        if counts_here(module):
            self.recorder.observe(name, module, args, kwargs)
        else:
            self.recorder.calls[name] += 1
            self.recorder.elsewhere[name] = "recorded by the first rank of its group, which has the same tokens"
        holder = weights_of(module)
        if holder is not None:
            self._experts(name, holder, module, args, kwargs or {})

    def end_pass(self) -> None:
        self.passes += 1
        if self.passes == 1 or self.passes % self.every == 0:
            self.save()

    def after(self, module: nn.Module) -> None:
        """A module ran: behind the last of them the first pass is written, whatever comes."""
        if self._saved == 0 and self.names and module is next(reversed(self.names)):
            self.save()

    def save(self) -> Path | None:
        """Writes the file, whole or not at all; says where it cannot, and returns None."""
        if not self.recorder.recorded and self.recorder.elsewhere:
            return None  # all of it is in the first rank's file
        many = torch.distributed.is_available() and torch.distributed.is_initialized()
        many = many and torch.distributed.get_world_size() > 1
        path = self.output.with_suffix(f".rank{rank()}.json") if many and rank() else self.output
        try:
            self.recorder.sweep().save(path)
            self._saved += 1
            return path
        except Exception as error:  # nothing recorded yet, or a full disk: the server goes on
            with contextlib.suppress(Warning):
                warnings.warn(f"nvfp4viz could not write {str(path)!r}: {error}", stacklevel=2)
        return None

    def _experts(self, name: str, holder: nn.Module, module: nn.Module, args, kwargs) -> None:
        """fc1's and fc2's input by expert, where the call and the weights tell them."""
        label = f"{name}.*.down_proj"
        if label in self.recorder.problems:
            return
        try:
            with torch.no_grad():
                where, whole = _shard(holder), counts_here(holder) or _expert_rank(holder)
                for expert, fc1, fc2 in experts_inputs(module, args, kwargs):
                    if whole:
                        self.recorder.observe_rows(f"{name}.{expert}.gate_up_proj", fc1)
                    if whole or where:
                        self.recorder.observe_rows(f"{name}.{expert}.down_proj{where}", fc2)
        except Exception as error:
            self.recorder.problems[label] = f"out of reach: {error}"


def weights_of(module: nn.Module) -> nn.Module | None:
    """What holds the weights of a block of experts: the block (SGLang) or a part of it (vLLM); else None."""
    for holder in (module, getattr(module, "routed_experts", None)):
        if isinstance(getattr(holder, "w13_weight", None), Tensor) and hasattr(holder, "w2_weight"):
            return holder
    return None


def counts_here(module: nn.Module) -> bool:
    """Whether this rank records a module's input: what all ranks of a tensor-parallel group hold, the first does."""
    return getattr(module, "input_is_parallel", False) or tensor_rank(module) == 0


def tensor_rank(module: nn.Module) -> int:
    """This process's place in the module's tensor-parallel group; without one, in the engine's; alone 0."""
    group = getattr(module, "tp_group", None)
    for holder, attribute in ((module, "tp_rank"), (module, "moe_tp_rank"), (group, "rank_in_group")):
        found = getattr(holder, attribute, None)
        if isinstance(found, int):
            return found
    with contextlib.suppress(Exception):
        from vllm.distributed import get_tensor_model_parallel_rank

        return get_tensor_model_parallel_rank()
    with contextlib.suppress(Exception):
        from sglang.srt.runtime_context import get_parallel

        return get_parallel().attn_tp_rank  # ranks of one attention group have the same tokens
    return rank()


def _shard(module: nn.Module) -> str:
    n = getattr(module, "moe_tp_size", getattr(module, "tp_size", 1))
    return f" [K shard {tensor_rank(module)} of {n}]" if isinstance(n, int) and n > 1 else ""


def experts_inputs(module: nn.Module, args, kwargs):
    """Expert, fc1's rows [n, H] and fc2's rows [n, I] of each that has tokens; ValueError where they are not told.

    Weights: w13 [E, 2I, H], gate then up; w2 [E, H, I]; floating point, as they were before an engine packs them.
    """
    holder = weights_of(module)
    w13 = holder.w13_weight
    if not w13.is_floating_point() or w13.element_size() < 2 or w13.ndim != 3:
        raise ValueError(f"its weights are {w13.dtype}: fc2's input exists inside the kernel only")
    x = next(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.is_floating_point())
    x = x.reshape(-1, x.shape[-1])
    ids, weights = _routing(module, args, kwargs, x)
    config = getattr(holder, "moe_runner_config", holder)
    name = getattr(config, "activation", "silu")
    name = getattr(name, "value", name)
    if name not in _ACTIVATIONS or getattr(config, "gemm1_alpha", None) is not None or w13.shape[-1] != x.shape[-1]:
        raise ValueError(f"its activation {name!r} or the layout of its weights is not known here")
    first = _expert_rank(holder) * len(w13)
    gated = w13.shape[1] == 2 * holder.w2_weight.shape[-1]
    for e in range(len(w13)):
        token, place = (ids == e + first).nonzero(as_tuple=True)
        if len(token):
            rows = x[token]
            if getattr(config, "apply_router_weight_on_input", False):
                rows = rows * weights[token, place, None].to(x.dtype)
            gate, up = F.linear(rows, w13[e]).chunk(2, -1) if gated else (F.linear(rows, w13[e]), 1)
            yield e + first, rows, _ACTIVATIONS[name](gate) * up


def _expert_rank(holder: nn.Module) -> int:
    """Which part of the experts this process has, where they are spread over processes."""
    for size, place in (("moe_ep_size", "moe_ep_rank"), ("ep_size", "ep_rank")):
        if isinstance(getattr(holder, size, None), int) and getattr(holder, size) > 1:
            return getattr(holder, place)
    return 0


def _routing(module: nn.Module, args, kwargs, x: Tensor) -> tuple[Tensor, Tensor]:
    """Experts and weights of each token, [T, k]: from the call (SGLang), or from the block's router (vLLM)."""
    for value in (*args, *kwargs.values()):
        ids = getattr(value, "topk_ids", None)
        if isinstance(ids, Tensor):
            return ids, value.topk_weights
    logits = kwargs.get("router_logits", args[1] if len(args) > 1 else None)
    router = getattr(module, "router", None)
    if not isinstance(logits, Tensor) or not hasattr(router, "select_experts"):
        raise ValueError("the call does not say which experts its tokens go to")
    weights, ids = router.select_experts(hidden_states=x, router_logits=logits)
    return ids, weights
