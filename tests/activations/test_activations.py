"""Reading activations: every format, foreign and hostile files, names; and the synthetic kinds."""

import argparse
import json
import os
import re
import socket
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import STORABLE
from safetensors.torch import save_file

from nvfp4viz import checkpoint, load, sweep, synthetic
from nvfp4viz.activations import SYNTHETIC, QuantizedCheckpointError, as_activations

X = synthetic("lognormal", 6, 32)


@pytest.fixture(autouse=True)
def _there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _old_torch(value, path):
    torch.save(value, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_safetensors(dtype):
    save_file({"b": X.to(dtype), "a.weight": X.to(dtype) * 2, "ids": torch.arange(4)}, "x.safetensors", {"model": "m"})
    found = load("x.safetensors")
    assert list(found) == ["a.weight", "b"] and len(found) == 2
    assert found["b"].dtype == (dtype if dtype != torch.float64 else torch.float32)
    assert torch.equal(found["b"].float(), X.to(dtype).float())
    (source,) = found.sources
    assert source["metadata"] == {"model": "m"} and source["bytes"] == os.path.getsize("x.safetensors")
    assert len(source["sha256"]) == 64 and source["path"] == "x.safetensors"
    assert found.left_out == {"ids": "I64: integers, such as token ids: no activations"}
    assert repr(found) == "Activations(2 tensors from x.safetensors; 1 left out: see .left_out)"


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8", "g"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_any_byte_order(dtype, order):
    array = np.asarray(X.float().numpy(), dtype=dtype, order=order)
    np.save("layer.npy", array)
    found = load(Path("layer.npy"))
    assert list(found) == ["layer"]
    assert found["layer"].dtype == (torch.float16 if dtype == "<f2" else torch.float32)
    np.testing.assert_array_equal(found["layer"].float().numpy(), array.astype(np.float32))
    found["layer"].zero_()  # a copy: the file stays
    assert load("layer.npy")["layer"].any()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(save):
    save("x.npz", layer10=X.float().numpy(), layer9=X.float().numpy() * 2, ids=np.arange(3), one=np.float32(1))
    found = load("x.npz")
    assert list(found) == ["layer9", "layer10"]
    assert torch.equal(found["layer10"], X.float())


@pytest.mark.parametrize("save", [torch.save, _old_torch])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".PT"])
def test_torch(save, suffix):
    value = {
        "layers": [X, {"mlp": (X * 2, 3, "text")}],
        7: torch.nn.Parameter(X * 3),
        "ids": torch.arange(2),
        "none": None,
    }
    save(value, "x" + suffix)
    found = load("x" + suffix)
    assert set(found) == {"layers.0", "layers.1.mlp.0", "7"}
    assert torch.equal(found["layers.1.mlp.0"], X * 2) and torch.equal(found["7"], X * 3)
    save(X, "alone" + suffix)
    assert list(load("alone" + suffix)) == ["alone"]


def test_a_folder_holds_files_of_any_format():
    Path("f").mkdir()
    save_file({"a": X}, "f/one.safetensors")
    np.save("f/two.npy", X.float().numpy())
    torch.save({"c": X}, "f/three.pt")
    Path("f/notes.txt").write_text("no tensor")
    Path("f/.unfinished.npy").write_text("no tensor either")
    found = load("f")
    assert set(found) == {"a", "two", "c"} and len(found.sources) == 3


def test_layers_come_in_natural_order_and_the_head_last():
    names = ["lm_head", "layers.10.q", "layers.2.q", "layers.2.k", "layers.1.q", "layers.٣.q"]
    save_file({n: X.clone() for n in names}, "x.safetensors")
    assert [n for n in load("x.safetensors") if n.isascii()] == [
        "layers.1.q", "layers.2.k", "layers.2.q", "layers.10.q", "lm_head",
    ]  # fmt: skip


def test_no_two_tensors_share_a_name():
    for i, folder in enumerate("abc"):
        Path(folder).mkdir()
        np.save(f"{folder}/x.npy", np.full((1, 16), i, np.float32))
    found = load("a", "b", "c", "c/x.npy")
    assert {name: int(x[0, 0]) for name, x in found.items()} == {"x": 0, "x/x": 1, "c/x/x": 2, "x (2)": 2}
    assert len(found.sources) == 4


def test_a_nested_name_that_a_key_spells_out_is_kept_apart():
    torch.save({"a": {"b": X}, "a.b": X * 2}, "x.pt")
    found = load("x.pt")
    assert list(found) == ["a.b", "x/a.b"] and torch.equal(found["x/a.b"], X * 2)


@pytest.mark.parametrize("name", STORABLE.values(), ids=STORABLE)
def test_names_are_only_names(name):
    save_file({name: X}, "x.safetensors")
    torch.save({name: X}, "x.pt")
    for file in ("x.safetensors", "x.pt"):
        assert list(load(file)) == [name]
        assert torch.equal(load(file)[name], X)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def _truncated(path, save, share=0.6):
    save(path)
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: int(len(data) * share)])


BAD = {
    "empty.safetensors": lambda p: Path(p).touch(),
    "empty.npy": lambda p: Path(p).touch(),
    "empty.npz": lambda p: Path(p).touch(),
    "empty.pt": lambda p: Path(p).touch(),
    "text.safetensors": lambda p: Path(p).write_text("not tensors at all\n" * 9),
    "text.npy": lambda p: Path(p).write_text("not tensors at all\n" * 9),
    "text.npz": lambda p: Path(p).write_text("not tensors at all\n" * 9),
    "text.pt": lambda p: Path(p).write_text("not tensors at all\n" * 9),
    "zip.npy": lambda p: np.savez(open(p, "wb"), X.float().numpy()),  # noqa: SIM115
    "npy.npz": lambda p: np.save(open(p, "wb"), X.float().numpy()),  # noqa: SIM115
    "pt.safetensors": lambda p: torch.save(X, p),
    "cut.safetensors": lambda p: _truncated(p, lambda q: save_file({"a": X}, q)),
    "header.safetensors": lambda p: _truncated(p, lambda q: save_file({"a": X}, q), 0.1),
    "cut.npy": lambda p: _truncated(p, lambda q: np.save(q, X.float().numpy())),
    "cut.npz": lambda p: _truncated(p, lambda q: np.savez(q, X.float().numpy())),
    "cut.pt": lambda p: _truncated(p, lambda q: torch.save(X, q)),
    "cut.bin": lambda p: _truncated(p, lambda q: _old_torch(X, q)),
}
PICKLED = {
    "pickled.npy": lambda p: np.save(p, np.array([Evil()], dtype=object), allow_pickle=True),
    "pickled.npz": lambda p: np.savez(p, a=np.array([Evil()], dtype=object)),
    "pickled.pt": lambda p: torch.save({"a": Evil()}, p),
    "pickled.bin": lambda p: _old_torch({"a": Evil()}, p),
    "module.pt": lambda p: torch.save(torch.nn.Linear(2, 2), p),
}


@pytest.mark.parametrize("name", BAD)
def test_damaged_and_foreign_files_are_named(name):
    BAD[name](name)
    with pytest.raises(
        ValueError, match=rf"^cannot read '{name}': truncated or damaged, or not what its name says \(.+"
    ):
        load(name)


@pytest.mark.parametrize("name", PICKLED)
def test_pickled_objects_are_refused_and_nothing_runs(name):
    PICKLED[name](name)
    with pytest.raises(ValueError, match=rf"^cannot read '{name}': it holds pickled objects, not loaded"):
        load(name)
    assert not Path("pwned").exists()


def test_one_bad_file_among_good_ones_is_the_one_named():
    np.save("good.npy", X.float().numpy())
    Path("bad.npy").write_text("x")
    with pytest.raises(ValueError, match=r"'bad\.npy'"):
        load("good.npy", "bad.npy")


@pytest.mark.parametrize(
    "paths, error, message",
    [
        ((), ValueError, "no file given"),
        (("none.npy",), FileNotFoundError, "no file or folder 'none.npy'"),
        (("x.txt",), ValueError, r"cannot read 'x.txt': known formats are .safetensors, .npy"),
        (("folder",), ValueError, r"folder 'folder' holds no .safetensors"),
        (("ints.npz",), ValueError, r"no floating-point tensor in ints.npz"),
        (("dangling.npy",), FileNotFoundError, "dangling.npy"),
    ],
)
def test_what_cannot_be_found_is_said(paths, error, message):
    Path("x.txt").write_text("x")
    Path("folder").mkdir()
    np.savez("ints.npz", a=np.arange(16), b=np.float32(3))
    Path("dangling.npy").symlink_to("nowhere.npy")
    with pytest.raises(error, match=message):
        load(*paths)


def test_links_are_followed():
    np.save("x.npy", X.float().numpy())
    Path("link.npy").symlink_to("x.npy")
    assert torch.equal(load("link.npy")["link"], X.float())


def test_a_file_that_went_away_after_loading_costs_its_tensors_only():
    save_file({"gone": X}, "gone.safetensors")
    np.save("here.npy", X.float().numpy())
    found = load("gone.safetensors", "here.npy")
    os.unlink("gone.safetensors")
    measured = sweep(found, "standard", engine="reference")
    assert measured.tensors == ["here"] and measured.skipped["gone"].startswith("cannot be read: ")


def test_reading_opens_no_connection(monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    torch.save(X, "x.pt")
    load("x.pt")["x"]


@pytest.mark.parametrize("kind", SYNTHETIC)
def test_synthetic_activations_are_the_same_for_a_seed(kind):
    x = synthetic(kind, 8, 160, seed=3)
    assert x.shape == (8, 160) and x.dtype == torch.bfloat16 and x.isfinite().all()
    assert torch.equal(x, synthetic(kind, 8, 160, seed=3)) and not torch.equal(x, synthetic(kind, 8, 160, seed=4))
    state = torch.get_rng_state()
    synthetic(kind, 8, 160)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_unknown_kind_is_answered_with_all():
    with pytest.raises(ValueError, match=re.escape("unknown kind 'gauss': one of 'normal', 'lognormal'")):
        synthetic("gauss")


# Small files that would take all memory or time, or end the process


def _with_shape(shape, descr="<f4"):
    with open("x.npy", "wb") as f:
        np.lib.format.write_array_header_1_0(f, {"descr": descr, "fortran_order": False, "shape": shape})
        f.write(bytes(64))


@pytest.mark.parametrize("shape", [(1 << 40, 16), (1 << 62, 4), (1 << 63,) * 3, (-1, 16), (2, 16)], ids=str)
def test_an_array_larger_than_its_file_is_refused(shape):
    _with_shape(shape)
    with zipfile.ZipFile("x.npz", "w") as archive:
        archive.write("x.npy", "a.npy")
    for name in ("x.npy", "x.npz"):
        with pytest.raises(ValueError, match=f"^cannot read '{name}': truncated or damaged"):
            load(name)


def test_elements_of_no_size_do_not_end_the_process():
    _with_shape((-1,), "|S0")  # NumPy divides by 0
    with pytest.raises(ValueError, match=r"^cannot read 'x\.npy'"):
        load("x.npy")


def test_an_archive_is_read_when_asked_for():
    np.savez_compressed("x.npz", a=X.float().numpy(), b=np.zeros((1 << 12, 1 << 12), np.float16), c=np.arange(3))
    found = load("x.npz")
    assert list(found) == ["a", "b"] and torch.equal(found["a"], X.float())
    os.unlink("x.npz")
    with pytest.raises(FileNotFoundError):
        found["a"]


def test_compressed_zeros_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr("nvfp4viz.activations.guards.EXPANDED", 1 << 20)
    np.savez_compressed("x.npz", a=np.zeros((1 << 12, 1 << 10), np.float16))
    with pytest.raises(ValueError, match=r"bytes that would grow to 8,388,\d+: hardly activations"):
        load("x.npz")


def test_one_number_repeated_by_strides_does_not_fill_the_memory():
    torch.save({"a": X, "b": torch.zeros(1, dtype=torch.float64).expand(1 << 22, 1 << 10)}, "x.pt")
    found = load("x.pt")
    assert torch.equal(found["a"], X)
    with pytest.raises(ValueError, match="8 bytes that would grow to 34,359,738,368"):
        found["b"]


def test_lists_that_share_lists_are_not_followed_without_end():
    shared = [X]
    for _ in range(9):
        shared = [shared] * 10
    torch.save(shared, "x.pt")
    with pytest.raises(ValueError, match="more items than the file has bytes"):
        load("x.pt")


@pytest.mark.alone
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("call", "why"),
    [
        (b"\x80\x02c__builtin__\nbytearray\nJ\x00\x00\x00\x7f\x85R.", "pickled objects, not loaded"),
        (b"\x80\x05\x96" + 7 * b"\x7f" + b"\x01.", "but only 1 remain"),
        (b"\x80\x02c" + 40_000 * b"x" + b"\nhooked\n.", "a pickled name of 40,007 characters"),
    ],
)
def test_a_pickle_that_asks_for_memory_or_time_is_refused(zipped, call, why):
    torch.save(X, "x.pt", _use_new_zipfile_serialization=zipped)
    if zipped:
        with zipfile.ZipFile("x.pt") as old, zipfile.ZipFile("y.pt", "w") as new:
            for name in old.namelist():
                new.writestr(name, call if name.endswith("data.pkl") else old.read(name))
    else:
        Path("y.pt").write_bytes(call)
    start = time.process_time()
    with pytest.raises(ValueError, match=why):
        load("y.pt")
    assert time.process_time() - start < 2


def test_a_checkpoint_zipped_anew_is_refused():
    torch.save(X, "x.pt")
    with zipfile.ZipFile("x.pt") as old, zipfile.ZipFile("y.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ValueError, match="its parts are compressed"):
        load("y.pt")


def test_a_dump_with_numbers_for_names():
    torch.save({7: X, "q": [X]}, "Pass00000.pt")
    assert set(load("Pass00000.pt")) == {"7", "q.0"}


@pytest.mark.parametrize("name", ["a" * 5000, 1, [1], None])
def test_a_list_of_no_shards_is_one_clear_error(name):
    Path("x.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match=r"^cannot read 'x.safetensors.index.json': not a list of shards") as error:
        load("x.safetensors.index.json")
    assert len(str(error.value)) < 400


def test_a_list_nested_too_deeply_is_one_clear_error():
    Path("x.safetensors.index.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"^cannot read 'x.safetensors.index.json': not a list of shards") as error:
        load("x.safetensors.index.json")
    assert len(str(error.value)) < 400


def test_what_an_error_quotes_is_safe_to_print():
    Path("x.safetensors.index.json").write_text('{"weight_map": {"a": "\\u001b[31m\\n", "b": "b", "c": "c"}}')
    with pytest.raises(FileNotFoundError) as error:
        load("x.safetensors.index.json")
    assert str(error.value).isprintable()
    Path("x.safetensors").write_bytes(b"\x20\0\0\0\0\0\0\0" + '{"a":{"dtype":"\x1b[31m\u202e"}}'.encode().ljust(32))
    with pytest.raises(ValueError) as error:
        load("x.safetensors")
    assert str(error.value).isprintable()


# What is not taken is told, with dtype and reason, whatever the format


def _fp4():
    return torch.zeros(4, 16, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)


@pytest.mark.parametrize("file", ["x.safetensors", "x.pt", "x.npz"])
def test_what_is_not_taken_is_told_from_every_format(file):
    values = {"x": X.float(), "ids": torch.arange(4), "flag": torch.ones(2, dtype=torch.bool), "one": torch.tensor(2.0)}
    if file == "x.npz":
        np.savez(file, **{name: t.numpy() for name, t in values.items()}, bf16=np.zeros((2, 16), "V2"),
                 wave=np.zeros(16, np.complex64), record=np.zeros(4, "f4,i4"))  # fmt: skip
        reasons = {"bf16": "ml_dtypes.bfloat16", "wave": "complex", "record": "record"}
    else:
        values |= {"fp8": X.to(torch.float8_e4m3fn), "e5": X.to(torch.float8_e5m2), "wave": torch.zeros(2, 16) * 1j}
        values |= {"fp4": _fp4()} if file == "x.pt" else {}
        (torch.save if file == "x.pt" else save_file)(values, file)
        reasons = {"fp8": "FP8 is quantized already", "e5": "FP8", "wave": "complex", "fp4": "from_flashinfer"}
    found = load(file)
    assert list(found) == ["x"] and set(found.left_out) == {"ids", "flag", "one", *(n for n in reasons if n in values
                                                            or file == "x.npz")}  # fmt: skip
    for name, words in {"ids": "integers", "flag": "integers", "one": "one number", **reasons}.items():
        assert name not in found.left_out or words in found.left_out[name], name


def test_sparse_and_nested_tensors_are_told_with_the_way_out():
    torch.save({"x": X, "s": torch.eye(16).to_sparse()}, "x.pt")
    assert "to_dense" in load("x.pt").left_out["s"]


def test_a_foreign_file_of_a_folder_costs_nothing_but_itself():
    Path("f").mkdir()
    save_file({"a": X}, "f/acts.safetensors")
    PICKLED["pickled.pt"]("f/training_args.bin")
    BAD["cut.npy"]("f/cut.npy")
    found = load("f")
    assert list(found) == ["a"] and set(found.left_out) == {"f/training_args.bin", "f/cut.npy"}
    assert "pickled objects" in found.left_out["f/training_args.bin"] and "truncated" in found.left_out["f/cut.npy"]
    assert "2 left out" in repr(found) and len(found.sources) == 1
    os.unlink("f/acts.safetensors")
    with pytest.raises(ValueError, match="cannot read"):  # nothing is left of it
        load("f")


Q = torch.zeros(32, 32, dtype=torch.uint8)
S = torch.ones(32, 4).to(torch.float8_e4m3fn)
CHECKPOINTS = {
    "compressed-tensors": {"weight_packed": Q, "weight_scale": S, "weight_global_scale": torch.ones(1)},
    "modelopt": {"weight": Q, "weight_scale": S, "weight_scale_2": torch.tensor(1.0), "input_scale": torch.tensor(1.0)},
    "fp8": {"weight": X.to(torch.float8_e4m3fn), "weight_scale_inv": torch.ones(1, 1)},
    "gptq": {"qweight": Q.int(), "qzeros": Q.int(), "scales": torch.ones(2, 32).half(), "g_idx": torch.arange(4)},
    "bitsandbytes": {"weight": Q, "weight.absmax": torch.ones(4), "weight.quant_map": torch.ones(16)},
    "mxfp4": {"gate_up_proj_blocks": Q, "gate_up_proj_scales": Q},
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
@pytest.mark.parametrize("file", ["x.safetensors", "x.bin"])
def test_a_quantized_checkpoint_is_no_activations(kind, file):
    named = {f"model.layers.0.mlp.down_proj.{name}": t.clone() for name, t in CHECKPOINTS[kind].items()}
    named |= {"model.norm.weight": torch.ones(64).bfloat16(), "lm_head.weight": torch.randn(100, 64).bfloat16()}
    (torch.save if file == "x.bin" else save_file)(named, file)
    with pytest.raises(QuantizedCheckpointError, match=r"a quantized checkpoint, not activations.*nvfp4viz.checkpoint"):
        load(file)


@pytest.mark.parametrize("source", [
    {0: X, 1: X}, {(0, "down"): X}, {"a": X.float().numpy()}, {"a\ud800": X}, X, X.float().numpy(),
    {"a": X.float().numpy().astype(">f4")}, {np.int64(3): X.numpy(force=True) if X.dtype != torch.bfloat16 else X},
], ids=range(8))  # fmt: skip
def test_whatever_people_have_becomes_names_and_tensors(source):
    found = as_activations(source)
    assert all(isinstance(n, str) and isinstance(x, torch.Tensor) for n, x in found.items())
    assert all(torch.equal(x.float(), X.float()) for x in found.values())


def test_paths_are_loaded_and_bfloat16_arrays_are_taken():
    import ml_dtypes

    save_file({"a": X}, "x.safetensors")
    assert list(as_activations("x.safetensors")) == list(as_activations([Path("x.safetensors")])) == ["a"]
    array = X.float().numpy().astype(ml_dtypes.bfloat16)
    assert torch.equal(as_activations({1: array})["1"], X)
    with pytest.raises(TypeError, match=r"activations is a int: give one tensor or array"):
        as_activations(3)
    with pytest.raises(ValueError, match="two tensors are called '1'"):
        as_activations({1: X, "1": X})
    with pytest.raises(TypeError, match=r"ml_dtypes\.bfloat16"):
        as_activations({"a": np.zeros((2, 16), "V2")})["a"]


def test_hidden_states_that_vllm_wrote_are_joined_by_layer():
    """One .safetensors a request, [T, layers, K]: requests follow each other, layers are tensors."""
    states = torch.arange(2 * 5 * 3 * 16, dtype=torch.float32).reshape(2, 5, 3, 16).bfloat16()
    for request in (0, 1):
        tensors = {"hidden_states": states[request].contiguous(), "token_ids": torch.arange(5)}
        save_file(tensors, f"request{request}.safetensors")
    found = load(".")
    assert list(found) == [f"hidden_states.{i}" for i in range(3)] and "token_ids" in found.left_out
    for i in range(3):
        assert torch.equal(found[f"hidden_states.{i}"], states[:, :, i].flatten(0, 1))


def test_hidden_states_without_token_ids_are_any_tensor():
    save_file({"hidden_states": torch.zeros(5, 3, 16)}, "x.safetensors")
    assert list(load("x.safetensors")) == ["hidden_states"]


def test_conversations_collected_for_draft_models_are_joined():
    for n in (3, 4):
        states = {"hidden_states": torch.ones(n, 32), "aux_hidden_states": torch.zeros(n, 96, dtype=torch.bfloat16)}
        torch.save({"input_ids": torch.arange(n), "conversation_id": f"c{n}", **states}, f"{n}.pt")
    shapes = {name: tuple(x.shape) for name, x in load(".").items()}
    assert shapes == {"aux_hidden_states": (7, 96), "hidden_states": (7, 32)}


def test_iterations_that_transformer_engine_dumped_are_joined():
    for rank, step in ((0, 100), (0, 200), (1, 100)):
        where = Path(f"tensor_dumps/rank_{rank}/iter_{step:06d}")
        where.mkdir(parents=True)
        torch.save({"high_precision": torch.full((4, 16), float(step))}, where / "fc1_activation.pt")
        torch.save(torch.zeros(2, 16), where / "fc1_gradient.pt")
    found = load("tensor_dumps/rank_0", "tensor_dumps/rank_1")
    shapes = {name: tuple(found[name].shape) for name in found}
    assert shapes == {
        "fc1_activation.high_precision": (8, 16), "fc1_gradient": (4, 16),
        "fc1_activation.high_precision [rank 1]": (4, 16), "fc1_gradient [rank 1]": (2, 16),
    }  # fmt: skip


def test_what_calibration_measured_is_left_out_with_the_way_out():
    names = ("layers.0.o_proj.input_quantizer._amax", "layers.0.o_proj.input_scale", "input_observer.min_vals")
    save_file({name: torch.ones(16, 16) for name in names} | {"x": torch.ones(4, 16)}, "calibrated.safetensors")
    found = load("calibrated.safetensors")
    assert list(found) == ["x"] and set(found.left_out) == set(names)
    assert all("nvfp4viz checkpoint" in why for why in found.left_out.values())


def test_metadata_has_one_order(tmp_path):
    """safetensors hands it on in another order each time, which a report would show."""
    about = {letter: letter for letter in "hgfedcba"}
    save_file({"x": torch.zeros(2, 16)}, tmp_path / "x.safetensors", metadata=about)
    (source,) = load(tmp_path / "x.safetensors").sources
    assert list(source["metadata"]) == sorted(about)


def test_one_array_of_an_npz_does_not_lose_the_others(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((4, 64), np.float32), notes=np.array([{"step": 1}], dtype=object))
    found = sweep(load(tmp_path / "a.npz"))
    assert list(found.stats) == ["x"] and "Python objects" in found.skipped["notes"]
    np.savez(tmp_path / "b.npz", notes=np.array([{"step": 1}], dtype=object))
    with pytest.raises(ValueError, match="pickled objects"):
        load(tmp_path / "b.npz")


def test_what_stands_in_place_of_a_file_is_named(tmp_path):
    pointer = tmp_path / "a.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n")
    with pytest.raises(ValueError, match=r"pointer of Git LFS.*git lfs pull"):
        load(pointer)
    with pytest.raises(ValueError, match="pointer of Git LFS"):
        checkpoint(pointer)
    (tmp_path / "b.npy").write_text("<!DOCTYPE html><html>")
    with pytest.raises(ValueError, match="web page"):
        load(tmp_path / "b.npy")
    torch.save({"x": torch.ones(4, 64), "args": argparse.Namespace(lr=1)}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"pickled objects.*\(argparse.Namespace\)"):
        load(tmp_path / "c.pt")
