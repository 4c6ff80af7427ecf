"""What never changes in a process is asked once: a call opens no file, lists no folder, reads no package's metadata."""

import subprocess
import sys
import textwrap

import pytest

from nvfp4viz.engine.flashinfer import engine as flashinfer

WATCH = """
    import importlib.metadata, sys
    import torch, nvfp4viz
    from nvfp4viz.engine.flashinfer import engine as flashinfer

    touched, watching = [], False
    def watch(event, arguments):
        if watching and event in ("open", "os.listdir", "os.scandir", "import", "subprocess.Popen"):
            touched.append((event, str(arguments[0])))
    sys.addaudithook(watch)
    version = importlib.metadata.version
    importlib.metadata.version = lambda name: watching and touched.append(("metadata", name)) or version(name)
    if GPU:  # a machine that looks as if it had one: FlashInfer is asked, and refuses float32
        torch.cuda.is_available, torch.cuda.get_device_capability = lambda: True, lambda device=None: (10, 0)
        flashinfer.find_nvcc()
    x = torch.randn(3, 64)
    def calls():
        nvfp4viz.analyze(x, "4/6-mae-256"), nvfp4viz.quantize(x, "standard")
        with nvfp4viz.record(torch.nn.Linear(64, 16), lambda name, module: True, recipes="standard") as recorder:
            recorder._model(x)
    calls()
    watching = True
    calls()
    watching = False
    print(touched)
"""


@pytest.mark.parametrize("gpu", [False, True], ids=["as it is", "with a GPU"])
def test_a_second_call_touches_no_file(gpu):
    program = f"GPU = {gpu}\n" + textwrap.dedent(WATCH)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


def test_a_compiler_is_looked_for_once(monkeypatch, tmp_path):
    looked = []
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(flashinfer.shutil, "which", lambda name, path: looked.append(name))
    assert flashinfer.find_nvcc() is flashinfer.find_nvcc() is None
    assert len(looked) == len(set(looked)) > 0
