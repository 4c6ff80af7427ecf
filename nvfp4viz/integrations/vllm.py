"""Record from a running vLLM engine, through its worker extension.

    llm = LLM(model, enforce_eager=True, worker_extension_cls="nvfp4viz.integrations.vllm.Recording")
    llm.collective_rpc("nvfp4viz_record", kwargs={"modules": ["*.down_proj", "*.experts"], "output": "/tmp/sweep.json"})
    llm.generate(prompts)
    llm.collective_rpc("nvfp4viz_save")

    vllm serve MODEL --enforce-eager --worker-extension-cls nvfp4viz.integrations.vllm.Recording

Files, ranks and fused experts are as in `nvfp4viz.integrations.sglang`: a file a rank, tokens once, fc2 by expert where
weights are bf16. A draft model's file is beside the target's.
"""

from __future__ import annotations

from ..nvfp4 import RECIPES
from .serving import Serving


class Recording:
    """Methods that vLLM adds to each worker, for `collective_rpc`."""

    def nvfp4viz_record(
        self, modules=("*proj", "*.experts"), output: str = "nvfp4viz-sweep.json", recipes=tuple(RECIPES),
        engine: str = "auto", every: int = 100,
    ) -> list[str]:  # fmt: skip
        """Start recording the inputs of modules whose name fits; returns their names.

        Raises RuntimeError under CUDA graphs, whose replay runs no hook; ValueError where no module fits or a recipe is
        unknown, FileNotFoundError where the output's folder is missing.
        """
        config = getattr(getattr(self, "model_runner", None), "model_config", None)
        if config is not None and not getattr(config, "enforce_eager", True):
            raise RuntimeError("vLLM replays CUDA graphs, which run no hook: start it with enforce_eager=True")
        self.nvfp4viz_stop()
        drafts = getattr(self, "get_draft_model", lambda: None)
        recordings, names = [], []
        for model in filter(None, (self.get_model(), drafts())):
            serving = Serving(recipes, output if not recordings else beside(output), engine, every)
            serving.attach(model, [modules] if isinstance(modules, str) else list(modules))
            recordings.append(serving)
            names += serving.names.values()
        if not names:
            raise ValueError(f"no module fits modules={list(modules)!r}")
        self.nvfp4viz_recordings = recordings
        return names

    def nvfp4viz_save(self) -> list[str]:
        """Write what was recorded so far; returns the files."""
        return [str(path) for path in (serving.save() for serving in _recordings(self)) if path]

    def nvfp4viz_stop(self) -> None:
        """Write what was recorded and take the hooks away."""
        for serving in _recordings(self):
            serving.save()
            serving.detach()
        self.__dict__.pop("nvfp4viz_recordings", None)


def beside(output: str) -> str:
    """The draft model's file."""
    stem, dot, suffix = output.rpartition(".")
    return f"{stem}.draft{dot}{suffix}"


def _recordings(worker) -> list[Serving]:
    return worker.__dict__.get("nvfp4viz_recordings", [])
