"""The scanner on launches as people write them: each variable with its value and line, and the error that it is."""

# ruff: noqa: E501  texts are easier to read in one line

import random
import sys
import time
from pathlib import Path

import pytest
from launches import NAMES, ROWS, SCOPES, spelt

from nvfp4viz.cli.main import main
from nvfp4viz.environment import check, check_settings, read_environment, read_text, ways

CASES = Path(__file__).parent / "cases"
FI, U256, TOKEN = NAMES["FI"], NAMES["256"], NAMES["TOKEN"]


def test_there_are_enough_styles():
    assert len(ROWS) >= 60 and len({name for name, *_ in ROWS}) == len(ROWS)
    assert len(HOSTS) >= 30


@pytest.mark.parametrize(("name", "text", "found", "error"), ROWS, ids=[r[0] for r in ROWS])
def test_a_launch(name, text, found, error, tmp_path):
    (tmp_path / name).write_bytes(spelt(text).encode())
    read = read_environment(tmp_path / name)
    wanted = {NAMES[key]: value for key, value in found.items()}
    given = [
        {n: (v, s.lines.get(n)) for n, v in s.variables.items()} | {n: (None, v.line) for n, v in s.unsettled.items()}
        for s in read
    ]
    assert not wanted or any(wanted.items() <= one.items() for one in given), given
    errors = [(f.variable, f.line) for s in read for f in check_settings(s) if f.severity == "error"]
    assert error is None or (NAMES[error], wanted[NAMES[error]][1]) in errors, errors


@pytest.mark.parametrize(("text", "gets", "said"), SCOPES, ids=[str(i) for i in range(len(SCOPES))])
def test_what_vllm_gets_from_a_shell(text, gets, said):
    read = read_text(spelt(text) + "\n", "a.sh")
    started = [s.variables | dict.fromkeys(s.unsettled) for s in read if s.program == "vllm"]
    assert {NAMES[k]: v for k, v in gets.items()} in (started or [{}]), read
    findings = [f for s in read for f in check_settings(s)]
    assert any(said in f.message for f in findings) if said else findings or any(s.variables for s in read)


# --- the cases of cases/: what the doctor says, and its exit code

TRUE = (1, [f"{U256}=true", "error"])  # `true` for the ceiling is the error that it is
SAID = {  # file: exit code, what is said, in this order where it matters not
    "d01_cmd.Dockerfile": (*TRUE, "line 2"), "d02_entrypoint.Dockerfile": (*TRUE, "line 2"),
    "d05_bashrc.Dockerfile": (1, [f"{FI}=true, line 2", ".bashrc"]),
    "e01_docker_quoted.sh": (1, [f"{U256}=true, line 3"]), "e03_export_quoted.sh": (1, [f"{U256}=true, line 1"]),
    "e04_wrapped_env.sh": (1, [f"{U256}=true, line 1"]), "e05_sudo_env.sh": (1, [f"{U256}=true, line 1"]),
    "e07_word_list.sh": (1, ["not settled", f"{U256}=true, line 1", "SERVER_ENV"]),
    "e08_slurm_export.sbatch": (1, [f"{U256}=true, line 3"]), "e11_ray_json.sh": (1, [f"{U256}=true, line 1", "ray job"]),
    "e13_source.sh": (0, ["not settled", "source ./nvfp4.env, line 1", "1 warning"]),
    "e15_docker_passthrough.sh": (0, ["not settled", f"{FI}, line 1", "taken over from whoever starts it"]),
    "e16_heredoc_python.sh": (1, [f"{FI}=true, line 3"]), "e18_Makefile": (1, [f"{FI}=true, line 1"]),
    "e19_apptainer.sh": (1, [f"{U256}=true, line 1"]),
    "k01_args.yaml": (1, [f"{U256}=true, line 15"]), "k03_compose_command.yml": (1, [f"{U256}=true, line 4"]),
    "k04_rayservice.yaml": (1, [f"{U256}=true, line 8"]), "k05_values_mixed.yaml": (1, [f"{U256}=true, line 5"]),
    "k07_unsettled_compose.yml": (0, ["not settled", "if 4OVER6=1", "4/6-mae-256-fast", "if 4OVER6=0", "standard-fast"]),
    "k09_override_tag.yml": (0, ["service sgl", "line 4"]),
    "s01_export_docker.sh": (0, [f"{FI}=1, line 1", "does not get it", "standard-tensor-fast"]),
    "s03_export_sudo_ssh.sh": (0, [f"{FI}=1, line 1", "does not get it", "standard-tensor-fast"]),
    "s04_branches.sh": (1, [f"{U256}=true, line 2", "line 1: if", "line 3: else"]),
    "s05_two_launches.sh": (1, [f"{U256}=true, line 1", "line 2: ", "4/6-mae-256-fast"]),
    "v01_nbsp.env": (1, [f"{FI}='1\\xa0', line 1", "written as on, read as off", "U+00A0"]),
    "v03_inline_comment.env": (0, ["docker run --env-file", "'1 # four over six'", "docker compose: '1'"]),
    "v05_systemd.service": (1, [f"{U256}=true, line 5", "4/6-mae-256-fast-scored448"]),
    "v06_multiline.env": (1, [f"{FI}=true, line 4"]), "v07_dotted.env": (1, [f"{FI}=true, line 2"]),
    "w03_fullwidth.env": (1, ["written as on, read as off", "U+FF11"]),
    "x01_err_mode.env": (1, ["raises", "fix: FLASHINFER_NVFP4_4OVER6_ERR_MODE=MSE"]), "x02_te_flag.env": (1, ["NVTE_NVFP4_4OVER6=all, or activations, or weights"]),
    "x04_vllm.env": (1, ["448", "256", "experts' input (fc1)", "dB", f"{U256}=0"]),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(p.name for p in CASES.iterdir()))
def test_a_case(name, capsys):
    code, said, *more = SAID[name]
    assert main(["doctor", "--env-file", str(CASES / name)]) == code
    out = " ".join(capsys.readouterr().out.split())
    for piece in (*said, *more):
        assert piece in out, out
    assert "Nothing to mend" not in out


def test_a_console_that_is_not_utf_8(monkeypatch):
    import io

    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp1252"))
    assert main(["doctor", "--env-file", str(CASES / "w03_fullwidth.env")]) == 1
    sys.stdout.flush()
    assert rb"\uff11" in raw.getvalue()


# --- no place of a known name stays unsaid

HOSTS = {name: spelt(text) for name, text, *_ in ROWS} | {
    p.name: p.read_text(encoding="utf-8") for p in CASES.iterdir()
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(HOSTS))
def test_after_all_fixes_the_doctor_is_content(name):
    for settings in read_text(HOSTS[name].replace("\r\n", "\n"), name):
        for way in ways(settings):
            found, fixed = check(way.variables, settings.program, settings.arguments), {}
            for variable, value in ((v, x) for f in found if f.severity != "note" for v, x in f.changes.items()):
                assert fixed.setdefault(variable, value) == value  # none undoes another
            env = {n: v for n, v in {**way.variables, **fixed}.items() if v is not None}
            left = check(env, settings.program, settings.arguments)
            assert [f for f in left if f.severity != "note"] == [], (way, fixed)


SNIPPETS = (f"{FI}=true", f"export {FI}=true", FI, f'"{FI}": "true",', f"{FI}: true", f"-e {FI}=true", f"# {FI}=1")


@pytest.mark.parametrize("name", sorted(HOSTS))
def test_a_name_anywhere_is_reported_with_its_line(name):
    rng = random.Random(name)
    for _ in range(40):
        text, snippet = HOSTS[name], rng.choice(SNIPPETS)
        at = rng.randrange(len(text) + 1) if rng.random() < 0.5 else rng.choice(_starts(text))
        end = rng.choice(("\n", " ", ""))
        spoilt = text[:at] + (rng.choice((" ", "\n")) if at else "") + snippet + (end or " ") + text[at:]
        line = spoilt[: spoilt.index(snippet, at) + snippet.index(FI)].count("\n") + 1
        read = read_text(spoilt.replace("\r\n", "\n"), name)
        lines = {n for s in read for n in s.lines.values()} | {r.line for s in read for r in s.remarks}
        words = " ".join(r.why for s in read for r in s.remarks)
        assert line in lines or f" {line}," in words or f" {line})" in words, (spoilt, line, read)
        findings = [f for s in read for f in check_settings(s)]
        assert findings or any(s.variables or s.unsettled for s in read), spoilt


def _starts(text: str) -> list[int]:
    return [0, *(i + 1 for i, c in enumerate(text) if c == "\n")]


LONG = {  # a megabyte of what could cost its square
    "a process": ("environ", f"{FI}=1\0" * 38_000),
    "words": ("a.sh", "word " * 200_000), "one word": ("a.sh", "A" * 1_000_000), "names": ("a.sh", f"{FI}=1\n" * 38_000),
    "names in one line": ("a.env", f"{FI}=1 " * 38_000), "near misses": ("a.txt", "".join(f"FLASHINFER_NVFP4_4OVER{i}=1\n" for i in range(32_000))),
    "quotes": ("a.sh", "'\"" * 500_000), "dollars": ("a.sh", "$(" * 500_000), "heredocs": ("a.sh", "<<A " * 250_000),
    "ifs": ("a.sh", "if " * 330_000), "branches": ("a.sh", f"if a; then export {FI}=1; fi\n" * 20_000),
    "functions": ("a.sh", "".join(f"f{i}() {{ f{i + 1}; }}\n" for i in range(50_000)) + f"f0\nexport {FI}=1\n"),
    "braces": ("a.json", "{" * 1_000_000), "json": ("a.json", '{"a": "' + FI + '=1",' * 40_000), "yaml": ("a.yaml", f"- {FI}: 1\n" * 30_000),
    "stages": ("Dockerfile", f"FROM x\nENV {FI}=1\n" * 25_000), "systemd": ("a.service", f"[Service]\nEnvironment={FI}=1\n" * 18_000),
    "makefile": ("Makefile", f"export {FI} := 1\na:\n\tx\n" * 20_000), "markdown": ("a.md", f"```\n{FI}=1\n```\n" * 28_000),
    "python": ("a.py", f"os.environ['{FI}'] = '1'\n" * 24_000), "continuations": ("a.sh", f"{FI}=1 \\\n" * 35_000),
    "open quote": (".env", f"{FI}='1\n" * 35_000), "blanks": (".env", f"{FI}=1" + " " * 990_000), "names in a comment": ("a.py", f"# {FI}\n" * 38_000),
    "short commands": ("a.sh", "a=b c\n" * 33_000 + f"{FI}=1 vllm serve /m\n"), "subshells": ("a.sh", f"export {FI}=1\n" + "(a)\n" * 49_000),
    "substitutions": ("a.sh", f"$({FI}=1 " * 590 + "x" * 180_000), "services": ("a.yaml", "services:\n" + "".join(f"  s{i}:\n    command: vllm serve /m\n" for i in range(4900)) + f"    environment: {{{FI}: 1}}\n"),
    "targets": ("Makefile", f"export {FI} = 1\n" + "a:\n\tvllm serve /m\n" * 11_000), "pods": ("a.yaml", f"{FI}: 1\n" + "---\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: a\n" * 2800),
    "random": ("a.sh", "".join(random.Random(1).choice("ab \n\"'`$(){}[]<>|&;#\\=:,-") for _ in range(190_000)) + FI), "indented": ("a.md", "    a\n\n" * 160_000 + f"    {FI}=1\n"),
    "strings": ("a.py", f'x = """\nexport {FI}=1\n"""\n' * 500), "cells": ("a.ipynb", '  "a = 1\\n",\n' * 80_000 + f'"{FI}=1\\n"\n'),
    "printed": ("a.sh", f"echo {FI}=1\n" * 500 + "echo a\n" * 7000), "edited": ("a.sh", f"sed -i 's/{FI}=.*/{FI}=1/' f\n" * 590),
    "an edit": ("a.sh", f"sed -i 's/{FI}" + "s/" * 29_000), "several programs": ("a.sh", f"mpirun -x {FI}=1 " + "vllm serve : " * 1400),
    "files": ("a.sh", f"echo {FI}=1 >> f\n" * 590), "macros": ("Makefile", "".join(f"A{i} = {FI}=1\n" for i in range(290)) + "a:\n" + "\t$(A1) vllm serve /m\n" * 290),
    "constants": ("a.py", f'A = "{FI}"\n' * 590 + "f(A, A[A])\n" * 15_000), "conditions": ("a.yaml", "a:\n" + "{{ if x }}\n" * 9000 + f"  {FI}: 1\n" + "{{ end }}\n" * 9000),
    "extended": ("a.yaml", "services:\n" + "".join(f"  s{i}:\n    extends: s{i + 1}\n    environment: {{{FI}: 1}}\n" for i in range(590))),
    "steps": ("a.yaml", "steps:\n" + f"- run: echo {FI}=1 >> $GITHUB_ENV\n" * 590), "returns": ("a.sh", f"export {FI}=1\r\n" * 590 + "a\r\n" * 12_000),
    "a line of Python": ("a.py", f"os.environ['{FI}'] = '1'\nf(" + "SHIN" * 250_000),
    "strings of no script": ("a.py", "x = '''a\n" * 110_000 + FI),
    "comments and blank lines": ("text", "  # comment\n\n\n" * 80_000 + f"ENV {FI}=1 \\\n  # comment\n"),
    "maps that hold and merge each other": (
        "compose.yaml", "x-a: &a\n" + "  s:\n    environment:\n      <<: *a\n      B: true\n" * 500
        + f"  {FI}: 1\nservices:\n  s:\n    environment:\n      <<: *a\n      B: true\n",
    ),
    "fences": ("a.md", "".join("`" * (3 + i % 900) + "\n" for i in range(2000)) + FI),
}  # fmt: skip


@pytest.mark.alone
@pytest.mark.parametrize("what", LONG)
def test_a_megabyte_takes_under_a_second(what):
    name, text = LONG[what]
    best = 9.0
    for _ in range(3):
        start = time.process_time()
        read = read_text(text[:1_000_000], name)
        best = min(best, time.process_time() - start)
        if best < 1:
            break
    assert read and best < 1, best
