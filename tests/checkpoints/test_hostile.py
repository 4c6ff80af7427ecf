"""Folders of strangers: one clear error or a finding, and nothing followed out of the folder in silence."""

import json
import os
import struct
import time
import tracemalloc

import numpy as np
import pytest
import torch
from checkpoint_data import DATA, spoil
from safetensors.torch import load_file, save_file

import nvfp4viz
from nvfp4viz.cli import main


def clear(message: str) -> None:
    assert message and "\n" not in message and message.isprintable() and len(message) < 1000


def header(path, values: dict, body: bytes = b"") -> None:
    raw = json.dumps(values).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + body)


def at(dtype, shape, start, stop):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize("content", [
    b"", b"\0" * 4, b"\xff" * 64, struct.pack("<Q", 1 << 62) + b"{}", struct.pack("<Q", 10) + b"[[[[[[[[[[",
    struct.pack("<Q", 200_000) + b"[" * 200_000, struct.pack("<Q", 4) + b"null",
])  # fmt: skip
def test_no_header(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read .*truncated or damaged") as e:
        nvfp4viz.checkpoint(tmp_path / "x.safetensors")
    clear(str(e.value))


@pytest.mark.parametrize("entry", [
    at("U8", [4, 8], 0, 1 << 40), at("U8", [4, 8], -5, 27), at("U8", [4, 8], 0, 31),
    at("U8", [1 << 40, 1 << 40], 0, 32), at("U8", [4, 8], 64, 96), {"dtype": "U8"},
    at("Q4", [4, 8], 0, 32), at("U8", "", 0, 32),
])  # fmt: skip
def test_wrong_offsets(tmp_path, entry):
    header(tmp_path / "x.safetensors", {"w.weight_packed": entry}, b"\0" * 32)
    with pytest.raises(ValueError, match=r"cannot read .*truncated or damaged") as e:
        nvfp4viz.checkpoint(tmp_path / "x.safetensors")
    clear(str(e.value))


def test_a_huge_header_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "x.safetensors", "wb") as f:
        f.write(struct.pack("<Q", 3 << 30))
        f.truncate(4 << 30)
    tracemalloc.start()
    with pytest.raises(ValueError, match="a header of 3,221,225,472 bytes"):
        nvfp4viz.checkpoint(tmp_path / "x.safetensors")
    assert tracemalloc.get_traced_memory()[1] < 1e7
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["config.json", "hf_quant_config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("content", [b"", b"[", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"a": 1'])
def test_json_that_is_none(tmp_path, name, content):
    copy = spoil("llama-modelopt", tmp_path)
    (copy / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"cannot read .*{name}") as e:
        nvfp4viz.checkpoint(copy)
    clear(str(e.value))


@pytest.mark.parametrize("values", [
    {"quantization_config": 3}, {"quantization_config": {"config_groups": [], "ignore": "all"}}, {"text_config": []},
    {"quantization_config": {"config_groups": {"a": 1, "b": {"weights": [], "input_activations": {"group_size": ""}}}}},
    {"quantization_config": {"ignore": [1, None, "re:(", "re:" + "a" * 10_000, "*" * 500, "re:(a|a)*$"]}},
    {"quantization_config": {"producer": 7}},
])  # fmt: skip
def test_configs_of_any_shape(tmp_path, values):
    copy = spoil("llama-compressed-tensors", tmp_path)
    (copy / "config.json").write_text(json.dumps(values))
    assert {f.code for f in nvfp4viz.checkpoint(copy).findings} <= {
        "config-missing", "pattern-unread", "neither-ignored-nor-quantized"
    }  # fmt: skip


@pytest.mark.alone
def test_patterns_take_no_time(tmp_path):
    evil = [f"re:.*a.*b.*c.*d{i}" for i in range(50)] + ["re:(a+)+$", "re:((a*)*)*b", "re:(.|.)+x"] + ["*a*" * 40] * 3
    copy = spoil("llama-compressed-tensors", tmp_path, config=lambda v: v["quantization_config"].update(ignore=evil))
    start = time.process_time()
    assert "pattern-unread" in {f.code for f in nvfp4viz.checkpoint(copy).findings}
    assert time.process_time() - start < 10


@pytest.mark.parametrize("shard", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", ""])
def test_an_index_that_leaves_the_folder(tmp_path, shard):
    copy = spoil("llama-modelopt", tmp_path)
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": shard}}))
    with pytest.raises(ValueError, match="not a file of its folder"):
        nvfp4viz.checkpoint(copy)


def test_an_index_whose_shards_are_gone(tmp_path):
    copy = spoil("llama-modelopt", tmp_path)
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "part-\x1b[31m.safetensors"}}))
    with pytest.raises(FileNotFoundError, match="lacks: copy all shards") as e:
        nvfp4viz.checkpoint(copy)
    clear(str(e.value))


def test_a_shard_that_is_gone_or_damaged_costs_what_stands_in_it(tmp_path, capsys):
    copy = spoil("llama-modelopt", tmp_path)
    whole = nvfp4viz.checkpoint(copy)
    names = list(load_file(copy / "model.safetensors"))
    listed = dict.fromkeys(names, "model.safetensors") | {
        "gone.a": "part-2.safetensors",
        "gone.b": "part-2.safetensors",
    }
    listed["spoilt"] = "part-3.safetensors"
    (copy / "part-3.safetensors").write_bytes(b"no tensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    found = nvfp4viz.checkpoint(copy)
    assert list(found.matrices) == list(whole.matrices) and not found.ok
    gone, spoilt = (f for f in found.findings if f not in whole.findings)
    assert (gone.code, gone.tensor, gone.value) == ("shard-unread", "part-2.safetensors", "2 tensors listed")
    assert (spoilt.code, spoilt.tensor) == ("shard-unread", "part-3.safetensors") and "damaged" in str(spoilt.to_dict())
    assert main(["checkpoint", str(copy)]) == 1 and "part-2.safetensors" in capsys.readouterr().out


def test_links(tmp_path):
    copy = spoil("llama-modelopt", tmp_path / "a")
    real = tmp_path / "elsewhere.safetensors"
    os.rename(copy / "model.safetensors", real)
    (copy / "model.safetensors").symlink_to(real)
    assert [f.code for f in nvfp4viz.checkpoint(copy).findings] == ["link-outside"]
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors").symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match="truncated or damaged"):
        nvfp4viz.checkpoint(copy)
    os.rename(real, copy / "weights.bin")
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors").symlink_to("weights.bin")  # within the folder
    assert nvfp4viz.checkpoint(copy).findings == []


def test_the_hubs_cache_is_at_home_with_its_links(tmp_path):
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    copy = spoil("llama-modelopt", tmp_path)
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, file in enumerate(copy.iterdir()):
        os.rename(file, blobs / f"{i:064x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{i:064x}")
    assert nvfp4viz.checkpoint(snapshot).findings == []


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"holds no \.safetensors file"):
        nvfp4viz.checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "hf_quant_config.json", "model.safetensors.index.json"])
def test_a_device_is_not_read_to_its_end(tmp_path, name):
    copy = spoil("llama-modelopt", tmp_path)
    (copy / name).unlink(missing_ok=True)
    (copy / name).symlink_to("/dev/zero")
    if name == "model.safetensors.index.json":
        with pytest.raises(ValueError, match="no regular file"):
            nvfp4viz.checkpoint(copy)
    else:
        nvfp4viz.checkpoint(copy)  # as if it were not there


def test_names_with_markup_and_control_characters(tmp_path, capsys):
    evil = "model.layers.0.<script>alert(1)</script>\x1b[31m\n.down_proj"
    tensors = load_file(DATA / "llama-modelopt" / "model.safetensors")
    old = "model.layers.0.mlp.down_proj"
    renamed = {k.replace(old, evil): v for k, v in tensors.items()}
    renamed[f"{evil}.input_scale"] = torch.tensor(0.0)
    save_file(renamed, tmp_path / "x.safetensors")
    assert main(["checkpoint", str(tmp_path / "x.safetensors")]) == 1
    said = capsys.readouterr().out
    assert "\x1b" not in said and "<script>" in said and "\\x1b[31m\\n" in said
    assert main(["checkpoint", "--json", str(tmp_path / "x.safetensors")]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["tensor"] == f"{evil}.input_scale"


def test_what_is_no_nvfp4(tmp_path):
    g = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (32, 32), generator=g, dtype=torch.uint8)
    others = {
        "bf16": {"a.weight": torch.zeros(4, 16, dtype=torch.bfloat16)},
        "mxfp4": {"a.weight_packed": codes, "a.weight_scale": torch.ones(32, 2, dtype=torch.uint8)},
        "gpt-oss": {"a.gate_up_proj_blocks": codes, "a.gate_up_proj_scales": torch.ones(32, 2, dtype=torch.uint8)},
        "fp8": {"a.weight": torch.zeros(4, 16).to(torch.float8_e4m3fn), "a.weight_scale": torch.ones(1)},
        "bitsandbytes": {"a.weight": codes.view(-1, 1), "a.weight.absmax": torch.ones(4)},
    }
    for name, tensors in others.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(ValueError, match="no NVFP4 weight") as e:
            nvfp4viz.checkpoint(tmp_path / f"{name}.safetensors")
        clear(str(e.value))


@pytest.mark.parametrize("path, error", [("/nowhere", FileNotFoundError), ("/etc/hostname", ValueError), (3, TypeError),
                                         (None, TypeError)])  # fmt: skip
def test_what_is_no_checkpoint(path, error):
    with pytest.raises(error):
        nvfp4viz.checkpoint(path)


def test_random_bytes_in_a_good_header_give_findings_or_one_error(tmp_path):
    rng = np.random.default_rng(5)
    data = (DATA / "qwen3-moe-modelopt" / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    for _ in range(12):
        spoilt = bytearray(data)
        for i in rng.integers(0, len(data), 400):
            spoilt[i] = rng.integers(256)
        spoilt[: 8 + size] = data[: 8 + size]
        (tmp_path / "x.safetensors").write_bytes(spoilt)
        found = nvfp4viz.checkpoint(tmp_path / "x.safetensors")
        json.dumps(found.to_dict(), allow_nan=False)
        repr(found)
        for name in list(found.matrices)[:3]:
            assert found.weights[name].shape[1] == found.matrices[name].features
