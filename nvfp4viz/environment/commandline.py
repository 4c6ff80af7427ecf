"""Which program a command line starts, and those of its flags that decide what is quantized and how."""

from __future__ import annotations

import functools
import re

PROGRAMS = (  # key, what its command lines, images and modules look like
    ("vllm", r"\bvllm[\"']?[ \t\x1f,]+[\"']?(?:serve|bench|chat|complete|run-batch)\b"
             r"|\bvllm\.entrypoints|-m[ \t\x1f,\"']+vllm\b"
             r"|\bvllm/vllm-|/vllm:"
             r"|\bvllm-openai\b|\bfrom vllm\b|\bimport vllm\b|\bdynamo\.vllm\b|\bvllm-runtime\b|\bray\.serve\.llm\b"),
    ("sglang", r"\bsglang\.(?:launch_server|bench_\w+|srt|Engine|router)\b"
               r"|\bsglang[\"']?[ \t\x1f,]+[\"']?(?:serve|generate)\b"
               r"|\blmsysorg/sglang\b"
               r"|\bimport sglang\b"
               r"|\bfrom sglang\b|/sglang:|\bdynamo\.sglang\b|\bsglang-runtime\b|\bsgl\.Engine\b"
               r"|-m[ \t\x1f,\"']+sglang\b"),
    ("miles", r"\bmiles/|\bmiles\.|-m[ \t\x1f]+miles\b|\bradixark/miles\b|\bfrom miles\b"),
    ("transformer-engine", r"\bpretrain_\w+\.py\b|\bmegatron\b|\btransformer_engine\b|\bMegatron-LM\b"
                           r"|\bnvcr\.io/nvidia/nemo\b|\bnemo\b"),
)  # fmt: skip
_PROGRAMS = tuple((key, re.compile(pattern, re.I if key == "transformer-engine" else 0)) for key, pattern in PROGRAMS)
FLAGS = {  # flag of a command line, keyword of Python: its name here
    "quantization": "quantization", "q": "quantization", "moe-runner-backend": "moe", "moe-backend": "moe",
    "linear-backend": "linear", "fp4-gemm-backend": "linear", "fp4-gemm-runner-backend": "linear",
    "kv-cache-dtype": "kv",
    "distributed-executor-backend": "executor", "moe-a2a-backend": "a2a", "model": "model", "model-path": "model",
}  # fmt: skip
_FLAG = re.compile(
    r"(?:(?<![\w-])--?(?P<flag>" + "|".join(sorted(FLAGS, key=len, reverse=True))
    + r")(?:[\"'],?)?(?:=|[ \t\x1f\n,]+(?:-[ \t]+)?)"
    r"|\b(?P<key>" + "|".join(sorted((f.replace("-", "_") for f in FLAGS if f != "q"), key=len, reverse=True))
    + r")[\"']?[ \t]*[=:][ \t]*)(?:\\?[\"'])?(?P<value>[^\s\"',\\;&|)\]}]+)"
)  # fmt: skip
_SERVE = re.compile(
    r"\bvllm[ \t\x1f]+serve[ \t\x1f]+(?!-)([^\s\x1f]+)|\bsglang[ \t\x1f]+serve[ \t\x1f]+(?!-)([^\s\x1f]+)"
)


@functools.lru_cache(256)
def program_of(text: str) -> str:
    """Key of the program that a command line starts, empty where none is known.

    >>> program_of("python3 -m sglang.launch_server --tp 8"), program_of("vllm serve /m"), program_of("ls")
    ('sglang', 'vllm', '')
    """
    return next((key for key, pattern in _PROGRAMS if pattern.search(text)), "")


def arguments_of(text: str) -> dict[str, str]:
    """The flags that matter.

    >>> arguments_of("vllm serve /m --quantization=nvfp4_per_token --kv-cache-dtype fp8")
    {'quantization': 'nvfp4_per_token', 'kv': 'fp8', 'model': '/m'}
    """
    found = {FLAGS[(m["flag"] or m["key"]).replace("_", "-")]: m["value"] for m in _FLAG.finditer(text)}
    served = _SERVE.search(text)
    return found | ({"model": served[1] or served[2]} if served and "model" not in found else {})
