"""What others offer for the same work: NVFP4 of one tensor, quantized only. Used by the benchmarks, CPU and GPU.

None of them has 4over6 or FP32 scales per token but the PyTorch reference, written as FlashInfer's tests write theirs;
the libraries are compared with `standard`, per tensor. `pip install nvidia-modelopt torchao compressed-tensors`.
"""

import functools
from collections.abc import Callable
from importlib import metadata

import torch

STANDARD = "standard-tensor"


def torch_cast_to_e2m1(x: torch.Tensor) -> torch.Tensor:
    sign, x = torch.sign(x), torch.abs(x)
    x[(x >= 0.0) & (x <= 0.25)] = 0.0
    x[(x > 0.25) & (x < 0.75)] = 0.5
    x[(x >= 0.75) & (x <= 1.25)] = 1.0
    x[(x > 1.25) & (x < 1.75)] = 1.5
    x[(x >= 1.75) & (x <= 2.5)] = 2.0
    x[(x > 2.5) & (x < 3.5)] = 3.0
    x[(x >= 3.5) & (x <= 5.0)] = 4.0
    x[x > 5.0] = 6.0
    return x * sign


def torch_quantize(x: torch.Tensor, e4m3_max: float, four_over_six: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """E2M1 values and E4M3 scales per token (MAE); it only quantizes, packs nothing and measures nothing."""
    amax = x.abs().amax(-1, keepdim=True).float()
    encode = torch.div(torch.full_like(amax, 6 * e4m3_max), amax).unsqueeze(-1)
    blocks = x.float().unflatten(-1, (-1, 16))
    h = blocks.abs().amax(-1, keepdim=True) / 6 * encode
    best = None
    for factor in (1.0, 1.5) if four_over_six else (1.0,):
        scale = (h * factor).clamp(max=448).to(torch.float8_e4m3fn).float()
        elements = torch_cast_to_e2m1((blocks * (encode / scale)).clamp(-6, 6))
        if not four_over_six:
            return elements, scale
        error = (elements * scale * amax.unsqueeze(-1) / (6 * e4m3_max) - blocks).abs().sum(-1, keepdim=True)
        if best is None:
            best = elements, scale, error
        else:
            four = error < best[2]
            best = torch.where(four, elements, best[0]), torch.where(four, scale, best[1]), error
    return best[:2]


def libraries(x: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Quantizing x [M, K] by `standard`, per tensor, in each library that is installed."""
    found = {}
    for name, peer in {"nvidia-modelopt": _modelopt, "torchao": _torchao, "compressed-tensors": _compressed}.items():
        try:
            label, work = peer(x)
            found[f"{name} {metadata.version(name)}{label}"] = work
        except ImportError as error:
            print(f"{name} is not measured: {error}")
    return found


def _modelopt(x):
    from modelopt.torch.quantization.qtensor import NVFP4QTensor

    return "", lambda: NVFP4QTensor.quantize(x, 16)


def _torchao(x):
    from torchao.prototype.mx_formats import nvfp4_tensor as torchao

    def work(quantize):
        return quantize(x, 16, torchao.per_tensor_amax_to_scale(x.abs().amax().float()))

    if not x.is_cuda:
        return "", functools.partial(work, torchao.nvfp4_quantize)
    return ", torch.compile", functools.partial(work, torch.compile(torchao.nvfp4_quantize))


def _compressed(x):
    from compressed_tensors.compressors import quantize_and_pack_fp4

    amax = x.abs().amax().float()
    ceiling = 448 * 6 / amax
    h = x.unflatten(-1, (-1, 16)).abs().amax(-1).float() / 6 * ceiling
    scale = h.clamp(max=448).to(torch.float8_e4m3fn).float()
    return ", scales given", lambda: quantize_and_pack_fp4(x, scale, ceiling.reshape(1))
