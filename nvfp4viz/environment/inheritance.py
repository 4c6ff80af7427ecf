"""Which commands start a program that does not get this shell's variables: containers, other hosts, other users."""

from __future__ import annotations

import re

from .assignments import NAME
from .commandline import program_of
from .lexer import Command

CONTAINERS = {"docker", "podman", "nerdctl"}


def cut(words: list[str]) -> str:
    """Why the program that a command starts does not get this shell's environment; empty where it does.

    >>> cut(["docker", "run", "img"]), cut(["sudo", "-E", "python3"])
    ('docker run starts with its own environment: pass it with -e', '')
    """
    for i, word in enumerate(words[:12]):
        head, rest = word.rsplit("/", 1)[-1], words[i + 1 :]
        sub = next((w for w in rest if not w.startswith("-")), "")
        if head in CONTAINERS and sub in ("run", "exec", "create", "container", "compose"):
            return f"{head} {sub} starts with its own environment: pass it with -e"
        if head in CONTAINERS and sub in ("start", "restart", "stack", "service"):
            return f"{head} {sub} starts with the environment that it was created with"
        if head in ("docker-compose", "podman-compose"):
            return f"{head} starts with the environment of its file"
        if head in ("systemctl", "service", "supervisorctl", "launchctl") and {"start", "restart", "reload"} & set(
            rest
        ):
            return f"{head} has it started by its own manager, which has its own environment"
        if head in ("ssh", "pdsh", "clush", "parallel-ssh", "pssh", "sshpass", "mosh"):
            return f"{head} sends no variables: write them into the remote command"
        if (head, sub) in (("lxc", "exec"), ("incus", "exec"), ("crictl", "exec"), ("ctr", "run"), ("ctr", "task")):
            return f"{head} {sub} starts with its own environment: pass it with --env, or with env before the command"
        if head in ("kubectl", "oc") and sub in ("exec", "run", "apply", "create", "rollout", "replace"):
            return f"{head} {sub} sends no variables: set them in the pod, or with env in front of the command"
        if head == "helm" and sub in ("install", "upgrade"):
            return f"helm {sub} sends no variables: set them in its values"
        if head == "qsub" and "-V" not in rest:
            return "qsub without -V passes the variables that -v names only"
        if head == "ray" and sub == "job":
            return "ray job submit sends no variables: put them into env_vars of the runtime environment"
        if head == "sudo" and not _keeps(rest, ("-E", "--preserve-env"), ("-u", "-g", "-h", "-p", "-C", "--user")):
            return "sudo drops variables: use sudo -E, or sudo env NAME=value"
        if head == "su" and any(w in ("-", "-l", "--login") for w in rest[:3]):
            return "su with a login starts from a clean environment"
        if head in ("srun", "sbatch", "salloc") and _exported(rest) is not None and "ALL" not in _exported(rest):
            return f"{head} --export without ALL passes the variables named there only"
        if head in ("apptainer", "singularity") and {"--cleanenv", "-e", "--containall", "-C"} & set(rest[:8]):
            return f"{head} --cleanenv drops variables"
        if head == "env" and _keeps(rest, ("-i", "-", "--ignore-environment")):
            return "env -i drops variables"
        if head in ("systemd-run", "machinectl", "crontab", "gcloud", "vagrant", "aws", "az", "modal", "sky"):
            return f"{head} starts it from another environment"
    return ""


def _keeps(words: list[str], flags: tuple[str, ...], taking: tuple[str, ...] = ()) -> bool:
    """Whether one of the options in front of a command is among `flags`; those of `taking` have a word of their own."""
    for before, word in zip(["", *words], words, strict=False):
        if not word.startswith("-") and before not in taking:
            return False
        short = re.fullmatch(r"-[A-Za-z]+", word)
        if word in flags or (short and any(f[1] in word for f in flags if len(f) == 2 and f != "-")):
            return True
    return False


def _exported(words: list[str]) -> str | None:
    options = zip(words, [*words[1:], ""], strict=False)
    return next((w.partition("=")[2] or after for w, after in options if re.match(r"--export(?:=|$)", w)), None)


def requote(text: str, literal: bool) -> str:
    return "'" + text.replace("'", "'\\''") + "'" if literal else text


def runs(body: str) -> bool:
    return bool(re.search(r"\s\S*\w", body)) and bool(
        re.search(r"[A-Za-z_]\w*=\S*\s+[\w./-]|;|&&|\bexport\b|\n", body) or program_of(body)
    )


_SUBSTITUTE = re.compile(r"(?:^|[;{\s\d$/])s([/|#,@!~+%])((?:\\.|(?!\1).)*)\1((?:\\.|(?!\1).)*)\1")
_INSERT = re.compile(r"^(?:\d+|\$|/(?:\\.|[^/])*/)?\s*[aic](?:\\\n?|\s)\s*(.+)$", re.S)


def replacements(script: str) -> list[str]:
    """The texts that a script of sed puts in.

    >>> replacements("s/^A=.*/A=1/"), replacements(r"s/\\(A=\\).*/\\12/"), replacements("$a export A=1")
    (['A=1'], ['A=2'], ['export A=1'])
    """
    inserted, found = _INSERT.match(script), []
    for m in () if inserted else _SUBSTITUTE.finditer(script):
        group = re.search(r"\\?\(\^?(.*?)\\?\)", m[2])
        new = m[3].replace("\\1", group[1]) if group else m[3]
        found.append(re.sub(r"\\([^\w])", r"\1", new.replace("\\n", "\n")))
    return [inserted[1]] if inserted else found


def started(command: Command) -> str:
    """A command in short, without what it sets."""
    words = []
    for word in command.words:
        if NAME.search(word.raw) and re.search("[A-Z]{4}[A-Z0-9]*_", word.raw):
            words = words[:-1] if words[-1:] in (["-e"], ["--env"], ["-x"]) else words
            continue
        words.append(word.raw)
    text = " ".join(words)
    return text if len(text) <= 60 else text[:57] + "..."
