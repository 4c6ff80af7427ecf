"""Readers of one kind of text each: what they keep apart, what they leave open, and that nothing is refused."""

# ruff: noqa: E501  texts are easier to read in one line

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvfp4viz.environment import check_settings, read_environment, read_process, read_processes, read_text
from nvfp4viz.environment.read import _READERS

FI = "FLASHINFER_NVFP4_4OVER6"
U256, TOKEN = f"{FI}_E4M3_USE_256", "SGLANG_FLASHINFER_NVFP4_PER_TOKEN_ACTIVATION"


def test_several_services_stages_and_containers():
    compose = read_environment(
        f"services:\n  a:\n    environment: {{{FI}: 1}}\n  b:\n    image: y\n  c:\n    env_file: e.env\n"
        f"  d:\n    environment: [{FI}=0]\n"
    )
    assert [s.name for s in compose] == ["text: service a", "text: service c", "text: service d"]
    assert any("e.env" in (f.value or "") for f in check_settings(compose[1]))
    stages = read_environment(f"FROM a AS one\nENV {FI}=1\nFROM one AS two\nENV {U256}=1\nFROM scratch\nENV {FI}=0\n")
    assert [(s.name, s.variables) for s in stages] == [
        ("text: stage one", {FI: "1"}), ("text: stage two", {FI: "1", U256: "1"}), ("text: stage 2", {FI: "0"}),
    ]  # fmt: skip
    manifests = read_environment(
        "kind: Deployment\nmetadata: {name: d}\nspec: {template: {spec: {initContainers: [{name: i, env: []}],"
        f" containers: [{{name: c, env: [{{name: {FI}, value: '1'}}, {{name: {U256}, valueFrom: {{}}}}]}}]}}}}}}\n---\n"
        f"kind: ConfigMap\nmetadata: {{name: m}}\ndata: {{{FI}: '0'}}\n"
    )
    assert [s.name for s in manifests] == ["text: Deployment d, container c", "text: ConfigMap m, data"] or [
        s.name for s in manifests
    ] == ["text: Deployment d, container c", "text: ConfigMap m"]
    assert manifests[0].variables == {FI: "1"} and U256 in manifests[0].unsettled


UNSETTLED = [
    (f"export {FI}=$X\n", "when the shell runs"),
    (f"export {FI}=`hostname`\n", "when the shell runs"),
    (f'export {FI}="${{X:-1}}"\n', "when the shell runs"),
    (f"export {FI}+=1\n", "added to what is there"),
    (f"set -e\n{FI}=1\npython x.py\n", "not exported"),
    (f"FROM x\nARG A=1\nENV {FI}=$A\n", "variable of the build"),
    (f"FROM x\nARG {FI}=1\n", "an ARG lasts while the image is built"),
    (f"FROM x\nRUN export {FI}=1\n", "set for this RUN alone"),
    (f"services:\n  a:\n    environment:\n      - {FI}\n", "whoever starts"),
    (f"services:\n  a:\n    environment:\n      {FI}:\n", "whoever starts"),
    (f"services:\n  a:\n    environment:\n      {FI}: ${{FI:-1}}\n", "docker compose fills"),
    (f"kind: Pod\nspec:\n  containers:\n  - env:\n    - name: {FI}\n      valueFrom: {{}}\n", "the cluster fills"),
    (f"A=1\n{FI}\n", "whoever starts"),
    (f"A=1\n{FI}=${{A}}\n", "another variable"),
    (f'A=1\n{FI}="1"\n', "depends on who reads this file"),
    (f"A=1\n{FI}=1 \n", "depends on who reads this file"),
    (f"A=1\n{FI} = 1\n", "depends on who reads this file"),
    (f"# {FI}=1\nA=1\n", "in a comment"),
    (f"echo {FI}\n", "only named here"),
    (f"kind: Pod\nmetadata: {{name: p}}\nspec: {{containers: [{{env: [{{name: {FI}, value: 1}}]}}]}}\n", "takes strings only"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "why"), UNSETTLED, ids=lambda v: v[:30])
def test_what_a_text_does_not_settle_is_said(text, why):
    found = [f for s in read_environment(text) for f in check_settings(s) if why in f.message]
    assert found and found[0].variable == FI and found[0].line


def test_single_quotes_are_literal_and_the_last_assignment_counts():
    (s,) = read_environment(f"export {FI}='$X' {U256}=1\nexport {U256}=2; unset {TOKEN}; vllm serve /m\n", "shell")
    assert [r.why for r in s.remarks] == ["set again or taken out on line 2", "taken out here"]
    assert s.variables == {FI: "$X", U256: "2"} and s.program == "vllm" and s.arguments == {"model": "/m"}


def test_the_last_ones_of_a_dotenv_and_of_a_shell():
    assert read_text(f"{FI}=0\n{FI}=1\n", ".env")[0].variables == {FI: "1"}


def test_what_a_template_or_a_file_fills_in_is_said():
    (tasks,) = read_text("- command: vllm serve /m\n  environment: '{{ env }}'\n", "a.yml")
    assert any("a template fills it in" in f.message for f in check_settings(tasks))
    (removed,) = read_text(f"import os\ndel os.environ['{FI}']\n", "a.py")
    assert [r.why for r in removed.remarks] == ["taken out here"]


def test_a_docstring_and_a_script_s_own_variables_set_nothing():
    (program,) = read_text(f'"""Serve with {FI}=1."""\nimport os\nos.environ["{FI}"] = "0"\n', "a.py")
    assert program.variables == {FI: "0"} and [r.why for r in program.remarks] == ["in a docstring: not set"]
    (given,) = read_text(f"FLASHINFER_VERSION=0.7.2\nexport {FI}=1\nvllm serve /m\n", "a.sh")
    assert given.variables[FI] == "1" and given.program == "vllm"


def test_who_takes_which_line_of_a_dotenv_is_said():
    (exported,), (blanks,) = read_text(f"export {FI}=1\n", ".env"), read_text(f"{FI} = 1\n", ".env")
    assert exported.variables == {FI: "1"} and "refuses a line with export" in exported.remarks[0].why
    assert blanks.unsettled[FI].maybe == ("1", None)  # bash and docker run take no such line
    (returns,) = read_text(f"{FI}=1\r\nA=2\r\n", ".env")
    assert returns.unsettled[FI].maybe == ("1", "1\r") and returns.lines == {FI: 1}


def test_what_docker_and_kubectl_print_is_read():
    inspect = f'[{{"Id": "x", "Name": "/srv", "Config": {{"Env": ["PATH=/bin", "{FI}=$1", "{U256}=1"], "Cmd": ["vllm", "serve", "/m"]}},'
    (s,) = read_text(inspect + ' "HostConfig": {}}]')
    assert s.variables == {FI: "$1", U256: "1"} and s.program == "vllm"  # nothing is expanded there
    (s,) = read_text(f"PATH=/bin\nHOME=/root\n{FI}= 1\n")
    assert s.variables == {FI: " 1"}


BAD = [
    ("a.yaml", b"services: ["), ("a.yaml", b"services:\n  a:\n    environment: text\n"), ("a.yaml", b"[" * 5000),
    ("a.yaml", b"- " * 300_000), ("a.yaml", b"{a: " * 200_000), (".env", b"this is prose, not settings\n"),
    ("a.env", b"A=\xff\xfe\n"), ("Dockerfile", b"FROM x\nENV A\n"), ("Dockerfile", b"FROM\n"), ("big.env", b"#" * (2 << 20)),
    ("a.yaml", b"!!python/object/apply:os.system ['true']\n"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data"), BAD, ids=lambda v: str(v)[:20])
def test_no_text_is_refused(name, data, tmp_path):
    (tmp_path / name).write_bytes(data + f"\n{FI}=true\n".encode())
    read = read_environment(tmp_path / name)
    line = data.count(b"\n") + 2
    assert any(line in s.lines.values() or any(r.line == line for r in s.remarks) for s in read), read


def test_utf_16_and_latin_1(tmp_path):
    for encoding in ("utf-16", "latin-1", "utf-8-sig"):
        (tmp_path / "a.env").write_bytes(f"A=\xe9\n{FI}=true\n".encode(encoding))
        (s,) = read_environment(tmp_path / "a.env")
        assert s.variables == {FI: "true"} and s.lines == {FI: 2}


def test_missing_files_folders_and_kinds(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_environment(tmp_path / "none.env")
    with pytest.raises(ValueError, match="a folder"):
        read_environment(tmp_path)
    with pytest.raises(ValueError, match="kind='toml' is not one of"):
        read_environment("A=1\n", "toml")


@pytest.mark.alone
def test_merging_yaml_does_not_explode():
    text = f"a0: &a0 {{{FI}: '1'}}\n" + "".join(f"a{i}: &a{i}\n  <<: [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
    start = time.process_time()
    read = read_environment(text + "services:\n  s:\n    environment:\n      <<: *a59\n", "yaml")
    assert time.process_time() - start < 5 and any(s.variables.get(FI) == "1" or s.remarks for s in read)


ALPHABET = [
    *"A=1 \n'\"\\$`#;&|<>(){}[]:-,*!~\0\t/",
    FI,
    "export ",
    "FROM ",
    "ENV ",
    "if ",
    "then ",
    "fi",
    "- ",
    "<<E",
    "[Service]\n",
]


@pytest.mark.parametrize("kind", [*_READERS, None])
@given(pieces=st.lists(st.sampled_from(ALPHABET), max_size=40))
def test_any_text_gives_settings(kind, pieces):
    for s in read_environment("\n" + "".join(pieces), kind):
        check_settings(s)
        assert all(isinstance(k, str) and isinstance(v, str) for k, v in s.variables.items())


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
def test_a_running_process_and_its_children():
    script = f"import os, subprocess, sys; os.environ['{FI}'] = 'true'; subprocess.run(['sleep', '60'])  # vllm serve"
    process = subprocess.Popen([sys.executable, "-c", script], env={FI: "1", U256: "1"})
    try:
        deadline = time.monotonic() + 30
        while len(found := read_processes(process.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert found[0].variables == {FI: "1", U256: "1"} and found[0].name.startswith(f"process {process.pid}, ")
        assert found[1].variables == {FI: "true", U256: "1"} and "sleep 60" in found[1].name
        assert found[0].program == "vllm" == found[1].program  # the child belongs to the server
    finally:
        subprocess.run(["kill", *map(str, _children(process.pid))], check=False)
        process.kill()
        process.wait()
    with pytest.raises(ValueError, match="there is no process"):
        read_process(process.pid)


def _children(pid: int) -> list[int]:
    from nvfp4viz.environment.process import descendants

    return descendants(pid)


SAID = [  # what a text leaves to the shell, to another file or to another program: never silence
    ("export $(cat .env | xargs)\nvllm serve /m\n", "only known when the shell runs"),
    ("env $(grep -v '^#' .env | xargs) vllm serve /m\n", "only known when the shell runs"),
    (f"export {FI}=1\r\nvllm serve /m\r\n", "bash keeps the CR"),
    (f"export {FI}=1\napptainer exec --cleanenv s.sif vllm serve /m\n", "drops variables"),
    (f"export {FI}=1\nsrun --export=NONE vllm serve /m\n", "without ALL passes the variables named there only"),
    (f"export {FI}=1\nsu - bob -c 'vllm serve /m'\n", "clean environment"),
    (f"N={FI}; export $N=true\n", "its name is put into a variable"),
    (f"export {FI}=true\nexport {FI}=1\nvllm serve /m\n", "set again or taken out on line 2"),
    (f": ${{{FI}:=true}}\nexport {FI}\nvllm serve /m\n", "kept, if it is set already"),
    (f"import os\nos.environ['{FI}'] = x\n", "an expression of the program"),
    (f"docker run --env-file <(echo {FI}=true) img vllm serve /m\n", "not understood which program gets it"),
    ("[Service]\nEnvironmentFile=/etc/x.env\nExecStart=vllm serve /m\n", "not followed"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "why"), SAID, ids=[why[:24] for _, why in SAID])
def test_what_happens_elsewhere_is_said(text, why):
    assert any(why in f.message for s in read_text(text) for f in check_settings(s)), read_text(text)


def test_inheritance_that_is_not_cut():
    for text in (
        f"export {FI}=1\nsudo -u bob -E vllm serve /m\n", f"export {FI}=1\ndocker run -e {FI} img vllm serve /m\n",
        f"echo 'export {FI}=1; vllm serve /m' | ssh host bash\n", f'eval "export {FI}=1"\nvllm serve /m\n',
        f"export APPTAINERENV_{FI}=1\napptainer exec s.sif vllm serve /m\n",
    ):  # fmt: skip
        (s,) = [s for s in read_text(text) if s.program == "vllm"]
        assert s.variables == {FI: "1"}, text
