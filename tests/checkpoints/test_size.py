"""Headers and scales of large models, in little time and memory."""

import json
import struct
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from safetensors.torch import save_file

import nvfp4viz


@pytest.mark.alone
def test_ten_thousand_tensors_of_scales_in_ten_seconds(tmp_path):
    g = torch.Generator().manual_seed(1)
    q = nvfp4viz.quantize(torch.randn(64, 256, generator=g), nvfp4viz.Recipe(per_token=False), engine="reference")
    tensors = {}
    for i in range(10_000):
        stem = f"model.layers.{i // 200}.mlp.experts.{i % 200}.down_proj."
        tensors |= {stem + "weight": q.codes.clone(), stem + "weight_scale": q.block_scales.clone(),
                    stem + "weight_scale_2": q.decode_scale[0, 0] * (1 + i % 7 / 10),
                    stem + "input_scale": torch.tensor(0.001 * (1 + i % 5))}  # fmt: skip
    save_file(tensors, tmp_path / "model.safetensors")
    start, cpu = time.perf_counter(), time.process_time()
    found = nvfp4viz.checkpoint(tmp_path / "model.safetensors")
    assert len(found.matrices) == 10_000 and found.findings == []
    seconds = min(time.perf_counter() - start, time.process_time() - cpu)
    assert seconds < 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_large_checkpoint_takes_little_memory(tmp_path):
    """A sparse file of 4 GB of codes and 0.5 GB of scales: what is read is 0.5 GB, what is held little."""
    rows, k = 1 << 17, 1 << 16
    codes, scales = rows * k // 2, rows * k // 16
    end = codes + scales
    header = json.dumps({
        "a.weight": {"dtype": "U8", "shape": [rows, k // 2], "data_offsets": [0, codes]},
        "a.weight_scale": {"dtype": "F8_E4M3", "shape": [rows, k // 16], "data_offsets": [codes, end]},
        "a.weight_scale_2": {"dtype": "F32", "shape": [], "data_offsets": [end, end + 4]},
    })  # fmt: skip
    with open(tmp_path / "x.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(header)) + header.encode())
        f.seek(end, 1)
        f.write(struct.pack("<f", 0.001))
    program = f"""
        import resource, nvfp4viz
        def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        before = peak()
        found = nvfp4viz.checkpoint({str(tmp_path / "x.safetensors")!r})
        assert found.scans["a"].blocks == {scales} and found.scans["a"].zero == 1
        print(peak() - before)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=250)
    assert run.returncode == 0, run.stderr[-500:]
    assert int(run.stdout) < 200
