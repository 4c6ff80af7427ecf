"""The environment of one program that a text starts: what is settled, what is not, what does not reach it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .assignments import Value

HANDED_ON = "its name is put into a variable: what is set through that is not known here"


@dataclass(frozen=True)
class Remark:
    """Something to know about a setting that is not a matter of its value."""

    severity: str  # "error", "warning" or "note"
    variable: str  # or the word that it is about: `source`, `env_file`
    written: str  # its text in the file
    why: str  # what to know
    line: int | None = None  # of the file


@dataclass(frozen=True)
class Settings:
    """What one program gets: a service, a container, a build stage, one launch of a script, a process."""

    name: str  # where it is: the file, then the service, the stage or the command in it
    variables: dict[str, str] = field(default_factory=dict)  # those that are settled
    lines: dict[str, int] = field(default_factory=dict)  # variable -> line
    unsettled: dict[str, Value] = field(default_factory=dict)  # variable -> what the text leaves open of it
    program: str = ""  # "sglang", "vllm", "transformer-engine", "miles"; empty where the text does not say
    arguments: dict[str, str] = field(default_factory=dict)  # of its command line, that choose what is quantized how
    remarks: tuple[Remark, ...] = ()  # what else the text says about them
    file: str = ""  # that the text writes it into; empty for what a program gets

    def named(self, prefix: str) -> Settings:
        return replace(self, name=f"{prefix}: {self.name}" if self.name else prefix)


@dataclass
class Building:
    """An environment while a text is read; copied at each branch."""

    values: dict[str, Value] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)
    exported: set[str] = field(default_factory=set)
    all_exported: bool = False
    carried: dict[str, dict[str, Value]] = field(default_factory=dict)  # variable of the script -> what its words set
    inside: dict[str, Value] = field(default_factory=dict)  # what APPTAINERENV_NAME sets in a container
    path: str = ""  # the branches that lead here

    def copy(self) -> Building:
        return Building(dict(self.values), list(self.remarks), set(self.exported), self.all_exported,
                        dict(self.carried), dict(self.inside), self.path)  # fmt: skip

    def key(self) -> tuple:
        values = frozenset((n, v.text, v.written, v.line, n in self.exported) for n, v in self.values.items())
        return values, tuple(self.remarks), self.all_exported

    def given(self) -> dict[str, Value]:
        """What a program started now gets."""
        return {n: v for n, v in self.values.items() if n in self.exported}


def settings(name: str, values: dict[str, Value], remarks=(), program: str = "", arguments=None) -> Settings:
    """Settings of values: those removed are left out, the open ones apart."""
    return Settings(
        name,
        {n: v.text for n, v in values.items() if v.settled and v.text is not None},
        {n: v.line for n, v in values.items()},
        {n: v for n, v in values.items() if not v.settled},
        program,
        dict(arguments or {}),
        tuple(dict.fromkeys(remarks)),
    )
