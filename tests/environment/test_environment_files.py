"""Reading the environment out of files that set it: every kind, what they leave open, and bad ones."""

import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvfp4viz.environment import check_settings, read_environment, read_process

FI = "FLASHINFER_NVFP4_4OVER6"
U256 = f"{FI}_E4M3_USE_256"
WANTED = {FI: "1", U256: "true"}
FILES = {
    ".env": f"# settings\nexport {FI}=1 # on\n\n{U256} = true\nOTHER=a b c\n",
    "server.env": f"{FI}='1'\n{U256}=\"true\"\n",
    "Dockerfile": f"FROM cuda:13 AS base\nENV {FI}=1 \\\n  # a comment\n\n    {U256}=\"true\" A='b c'\n"
    "RUN <<EOF\nENV X=1\nEOF\n",
    "sgl.dockerfile": f"# escape=`\nfrom x\nenv {FI} 1\nENV {U256}=true `\n  B=2\n",
    "docker-compose.yml": f"services:\n  sgl:\n    image: x\n    environment:\n      - {FI}=1\n      - {U256}=true\n",
    "compose.yaml": f"x-a: &a\n  {FI}: 1\nservices:\n  sgl:\n    environment:\n      <<: *a\n      {U256}: true\n",
    "pod.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: sgl\n    env:\n"
    f"    - {{name: {FI}, value: '1'}}\n    - name: {U256}\n      value: \"true\"\n",
    "run.sh": f"#!/bin/bash\nexport {FI}=1\nif true; then {U256}='true' python -m sglang.launch_server; fi\n",
    "docker.sh": f"docker run --rm -e {FI}=1 --env {U256}=true image\n",
    "launch.bash": f"set -a; {FI}=1; {U256}=\"tr\"'ue' # why\nset +a\n",
    "env.sh": f"env {FI}=1 {U256}=true python server.py\n",
    "declare.sh": f"declare -x {FI}=1 {U256}; {U256}=true\n",
    "environ": f"PATH=/bin\0{FI}=1\0{U256}=true\0",
    "pod.json": '{"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "env": ['
    f'{{"name": "{FI}", "value": "1"}}, {{"name": "{U256}", "value": "true"}}]}}]}}}}',
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file(name, tmp_path):
    (tmp_path / name).write_text(FILES[name])
    (from_file,) = read_environment(tmp_path / name)
    assert {k: from_file.variables.get(k) for k in WANTED} == WANTED
    assert from_file.name.startswith(name)
    (tmp_path / name).write_bytes(FILES[name].replace("\n", "\r\n").encode())
    (from_crlf,) = read_environment(tmp_path / name)
    assert from_crlf.variables == from_file.variables
    assert any(f.severity == "error" and f.variable == U256 for f in check_settings(from_file))


def test_several_services_stages_and_containers():
    compose = read_environment(
        "services:\n  a:\n    environment: {X: 1}\n  b:\n    image: y\n  c:\n    env_file: e.env\n"
    )
    assert [s.name for s in compose] == ["text: service a", "text: service b", "text: service c"]
    assert "e.env" in check_settings(compose[2])[0].value
    stages = read_environment("FROM a AS one\nENV A=1 B=$C\nFROM one AS two\nENV A=2\nFROM scratch\nENV D=4\n")
    assert [(s.name, s.variables) for s in stages] == [
        ("text: stage one", {"A": "1"}), ("text: stage two", {"A": "2"}), ("text: stage 2", {"D": "4"}),
    ]  # fmt: skip
    manifests = read_environment(
        "kind: Deployment\nmetadata: {name: d}\nspec: {template: {spec: {initContainers: [{name: i, env: []}],"
        " containers: [{name: c, env: [{name: A, value: '1'}, {name: B, valueFrom: {}}]}]}}}\n---\n"
        "kind: ConfigMap\nmetadata: {name: m}\ndata: {A: '2'}\n"
    )
    assert [s.name for s in manifests] == [
        "text: Deployment d, container i", "text: Deployment d, container c", "text: ConfigMap m",
    ]  # fmt: skip
    assert manifests[1].variables == {"A": "1"} and manifests[1].remarks[0][1] == "B"


UNSETTLED = [
    (f"export {FI}=$X\n", "when the shell runs"),
    (f"export {FI}=`hostname`\n", "when the shell runs"),
    (f'export {FI}="${{X:-1}}"\n', "when the shell runs"),
    (f"export {FI}+=1\n", "when the shell runs"),
    (f"set -e\n{FI}=1\npython x.py\n", "not exported"),
    (f"FROM x\nARG A=1\nENV {FI}=$A\n", "variable of the build"),
    (f"services:\n  a:\n    environment:\n      - {FI}\n", "whoever starts"),
    (f"services:\n  a:\n    environment:\n      {FI}:\n", "whoever starts"),
    (f"services:\n  a:\n    environment:\n      {FI}: ${{FI:-1}}\n", "docker-compose fills"),
    (f"kind: Pod\nspec:\n  containers:\n  - env:\n    - name: {FI}\n      valueFrom: {{}}\n", "the cluster fills"),
    (f"A=1\n{FI}\n", "whoever starts"),
    (f"A=1\n{FI}=${{A}}\n", "another variable"),
    (f'A=1\n{FI}="1"\n', "keeps the quotes"),
]


@pytest.mark.parametrize(("text", "why"), UNSETTLED, ids=lambda v: v[:30])
def test_values_that_the_file_does_not_settle(text, why):
    found = [f for s in read_environment(text) for f in check_settings(s) if why in f.message]
    assert found and found[0].variable == FI
    for s in read_environment(text):
        assert FI not in s.variables or "quotes" in why or "exported" in why


def test_single_quotes_are_literal_and_the_last_assignment_counts():
    (s,) = read_environment("export A='$X' B=1\nexport B=2; unset C; export D=\\$x\n# export E=1\necho F=1\n", "shell")
    assert s.variables == {"A": "$X", "B": "2", "D": "$x"}


BAD = [
    ("a.yaml", b"services: [", "not YAML, line"),
    ("a.yaml", b"services:\n  a:\n    environment: text\n", "neither a list"),
    ("a.yaml", b"just: data\n", "no services"),
    ("a.yaml", b"services:\n  a: [A=1]\n", "service a is a list, not a map"),
    ("a.yaml", b"services: {a: {environment: {null: x}}}\n", "a variable's name is a NoneType"),
    ("a.yaml", b"!!python/object/apply:os.system ['true']\n", "not YAML"),
    ("a.yaml", b"[" * 5000, "nested too deeply|not YAML"),
    ("a.yaml", b"- " * 300_000, "not YAML: nested more than 200 deep"),
    ("a.yaml", b"{a: " * 200_000, "nested too deeply|not YAML"),
    ("a.yaml", b"kind: Pod\nspec: {containers: [{env: {A: 1}}]}\n", "not a list of name and value"),
    (".env", b"this is prose, not settings\n", "line 1 is"),
    (".env", b"A=\xff\xfe\n", "not UTF-8"),
    ("Dockerfile", b"FROM x\nENV A\n", "expected ENV NAME=value"),
    ("Dockerfile", b"FROM\n", "expected FROM image"),
    ("big.env", b"#" * (2 << 20), "larger than 1 MiB"),
]


@pytest.mark.parametrize(("name", "data", "message"), BAD, ids=lambda v: str(v)[:20])
def test_bad_files_end_in_one_clear_error(name, data, message, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        read_environment(tmp_path / name)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_missing_files_folders_and_kinds(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_environment(tmp_path / "none.env")
    with pytest.raises(ValueError, match="a folder"):
        read_environment(tmp_path)
    with pytest.raises(ValueError, match="kind='toml' is not one of"):
        read_environment("A=1\n", "toml")


def test_merging_yaml_does_not_explode():
    text = "a0: &a0 {A: '1'}\n" + "".join(f"a{i}: &a{i}\n  <<: [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
    (s,) = read_environment(text + "services:\n  s:\n    environment:\n      <<: *a59\n", "yaml")
    assert s.variables == {"A": "1"}


@pytest.mark.parametrize("kind", ["dotenv", "dockerfile", "yaml", "shell", "process", None])
@given(text=st.text(st.sampled_from("A=1 \n'\"\\$`#;&|<>(){}[]:-,*!~\0\t/eEnNvVfFrRoOmMsS"), max_size=80))
def test_any_text_gives_settings_or_a_value_error(kind, text):
    try:
        for s in read_environment("\n" + text, kind):
            check_settings(s)
            assert all(isinstance(k, str) and isinstance(v, str) for k, v in s.variables.items())
    except ValueError as error:
        assert str(error)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
def test_a_running_process():
    process = subprocess.Popen(["sleep", "60"], env={FI: "1", U256: "true"})
    try:
        deadline = time.monotonic() + 30
        while FI not in (settings := read_process(process.pid)).variables and time.monotonic() < deadline:
            time.sleep(0.01)  # until exec has replaced this process's environment
        assert settings.variables == {FI: "1", U256: "true"} and settings.name == f"process {process.pid}"
    finally:
        process.kill()
        process.wait()
    with pytest.raises(ValueError, match="there is no process"):
        read_process(process.pid)


LONG = {  # what took quadratic time or memory
    "blanks": (".env", b"A=x" + b" " * 500_000 + b"y"),
    "blanks before a comment": (".env", b"A=x" + b" " * 500_000 + b"y #"),
    "then": ("a.sh", b"then " * 200_000 + b"A=1"),
    "stages": (
        "Dockerfile",
        b"FROM x AS a0\nENV" + b"".join(b" A%d=1" % i for i in range(40_000))
        + b"".join(b"\nFROM a%d AS a%d" % (i, i + 1) for i in range(20_000)),
    ),
    "services": (
        "a.yaml",
        b"x: &e {" + b", ".join(b"A%d: 1" % i for i in range(5_000)) + b"}\nservices:\n"
        + b"".join(b"  s%d: {environment: *e}\n" % i for i in range(5_000)),
    ),
    "containers": (
        "a.yaml",
        b"x: &c [{name: c, env: [" + b", ".join(b"{name: A%d, value: a}" % i for i in range(1_000)) + b"]}]\ny:\n"
        + b"- containers: *c\n" * 5_000,
    ),
    "what is shown": (
        "a.yaml",
        b"a0: &a0 [x]\n"
        + b"".join(b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 20))
        + b"services: {s: {environment: {A: '1'}, env_file: *a19}}\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", LONG)
def test_a_long_file_takes_no_long_time(what, tmp_path):
    name, data = LONG[what]
    (tmp_path / name).write_bytes(data)
    start = time.process_time()
    try:
        read_environment(tmp_path / name)
    except ValueError as error:
        assert "hardly settings" in str(error) or "expected NAME=value" in str(error)
    assert time.process_time() - start < 5
