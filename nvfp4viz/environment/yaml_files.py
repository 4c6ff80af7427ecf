"""Environment variables out of docker-compose files and Kubernetes manifests, for `envfiles.read_environment`."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator

VARIABLES = 100_000  # of all services together; a file repeats a few without end by naming one map many times
DEPTH = 200

_REPR = reprlib.Repr()  # maps that hold each other have no end either
_REPR.maxlevel, _REPR.maxstring, _REPR.maxlist = 4, 80, 4


def read_yaml(text: str) -> list[tuple]:
    """(where, variables, remarks) of each compose service, Kubernetes container and ConfigMap."""
    found, variables = [], 0
    for one in (one for document in _documents(text) for one in _settings(document)):
        found.append(one)
        variables += 1 + len(one[1]) + len(one[2])
        if variables > VARIABLES:
            raise ValueError(f"more than {VARIABLES:,} variables: hardly settings")
    if not found:
        raise ValueError("no services of docker-compose and no containers of Kubernetes in it")
    return found


def _settings(document) -> Iterator[tuple]:
    services = document.get("services") if isinstance(document, dict) else None
    if isinstance(services, dict):
        return (_service(_text(name), service or {}) for name, service in services.items())
    return _containers(document, "", set())


def _text(value) -> str:
    return value if isinstance(value, str) else _REPR.repr(value)


def _documents(text: str) -> list:
    """YAML documents with every scalar as the text that was written: `true` stays "true", 1 stays "1"."""
    try:
        import yaml
    except ImportError:
        raise ValueError("reading YAML needs PyYAML: pip install pyyaml") from None

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # ten times as fast
        def flatten_mapping(self, node):
            super().flatten_mapping(node)
            # keep one value a key, or nested merges (<<) would double at each level
            node.value = list({getattr(key, "value", key) if isinstance(key, yaml.ScalarNode) else id(key): (key, value)
                               for key, value in node.value}.values())  # fmt: skip

    Loader.yaml_implicit_resolvers = {
        first: [(tag, regexp) for tag, regexp in rules if tag.endswith((":null", ":merge"))]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth = 0
    try:
        for event in yaml.parse(text, Loader):  # before the nodes, at whose depth libyaml's stack ends the process
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH:
                raise ValueError(f"nested more than {DEPTH} deep")
        return [d for d in yaml.load_all(text, Loader) if d is not None]
    except (yaml.YAMLError, ValueError, TypeError) as error:
        problem = " ".join(str(getattr(error, "problem", None) or error).split())[:100]
        mark = getattr(error, "problem_mark", None)
        raise ValueError(f"not YAML{f', line {mark.line + 1}' if mark else ''}: {problem}") from None


def _service(name: str, service: dict) -> tuple:
    if not isinstance(service, dict):
        raise ValueError(f"service {name} is a {type(service).__name__}, not a map")
    environment = service.get("environment")
    if isinstance(environment, list) and all(isinstance(entry, str) for entry in environment):
        environment = {k: v if eq else None for k, eq, v in (entry.partition("=") for entry in environment)}
    if not isinstance(environment or {}, dict):
        raise ValueError(f"service {name}: environment is neither a list of NAME=value nor a map")
    variables, remarks = {}, []
    for key, value in (environment or {}).items():
        if not isinstance(key, str):
            raise ValueError(f"service {name}: a variable's name is a {type(key).__name__}")
        if value is None:
            remarks.append(("warning", key, key, "taken over from whoever starts the service"))
        elif not isinstance(value, str):
            raise ValueError(f"service {name}: {key} is a {type(value).__name__}, not a value")
        elif "$" in value.replace("$$", ""):
            remarks.append(("warning", key, value, "docker-compose fills it in from its own environment"))
        else:
            variables[key] = value.replace("$$", "$")
    if service.get("env_file"):
        remarks.append(("note", "env_file", _text(service["env_file"]), "not followed: check that file too"))
    return f"service {name}", variables, tuple(remarks)


def _containers(node, owner: str, seen: set[int]) -> Iterator[tuple]:
    """Every list under a key containers or initContainers, and ConfigMaps, wherever they are."""
    if id(node) in seen or not isinstance(node, (dict, list)):
        return
    seen.add(id(node))
    if isinstance(node, list):
        for item in node:
            yield from _containers(item, owner, seen)
        return
    if "kind" in node and isinstance(node.get("metadata"), dict):
        owner = f"{_text(node['kind'])} {_text(node['metadata'].get('name', ''))}".strip()
    if node.get("kind") == "ConfigMap" and isinstance(node.get("data"), dict):
        yield owner, {_text(k): v for k, v in node["data"].items() if isinstance(v, str)}, ()
    for key, value in node.items():
        if key in ("containers", "initContainers") and isinstance(value, list):
            yield from (_container(item, owner) for item in value if isinstance(item, dict))
        else:
            yield from _containers(value, owner, seen)


def _container(container: dict, owner: str) -> tuple:
    name = f"{owner}, container {_text(container.get('name', ''))}".strip(", ")
    variables, remarks = {}, []
    entries = container.get("env") or []
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in entries
    ):
        raise ValueError(f"{name}: env is not a list of name and value")
    for entry in entries:
        value = entry.get("value")
        if isinstance(value, str) and "$(" not in value:
            variables[entry["name"]] = value
        elif value is None and "valueFrom" not in entry:
            variables[entry["name"]] = ""
        else:
            variables.pop(entry["name"], None)
            remarks.append(("warning", entry["name"], _text(value or "valueFrom"), "the cluster fills it in"))
    if container.get("envFrom"):
        remarks.append(("note", "envFrom", _text(container["envFrom"])[:80], "not followed: check what it names too"))
    return name, variables, tuple(remarks)
