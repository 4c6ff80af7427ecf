"""Environment variables out of docker-compose files and Kubernetes manifests, for `envfiles.read_environment`."""

from __future__ import annotations


def read_yaml(text: str) -> list[tuple]:
    """(where, variables, remarks) of each compose service, Kubernetes container and ConfigMap."""
    found = []
    for document in _documents(text):
        services = document.get("services") if isinstance(document, dict) else None
        if isinstance(services, dict):
            found += [_service(str(name), service or {}) for name, service in services.items()]
        else:
            found += _containers(document, "", set())
    if not found:
        raise ValueError("no services of docker-compose and no containers of Kubernetes in it")
    return found


def _documents(text: str) -> list:
    """YAML documents with every scalar as the text that was written: `true` stays "true", 1 stays "1"."""
    try:
        import yaml
    except ImportError:
        raise ValueError("reading YAML needs PyYAML: pip install pyyaml") from None

    class Loader(yaml.SafeLoader):
        def flatten_mapping(self, node):
            super().flatten_mapping(node)
            # keep one value a key, or nested merges (<<) would double at each level
            node.value = list({getattr(key, "value", key) if isinstance(key, yaml.ScalarNode) else id(key): (key, value)
                               for key, value in node.value}.values())  # fmt: skip

    Loader.yaml_implicit_resolvers = {
        first: [(tag, regexp) for tag, regexp in rules if tag.endswith((":null", ":merge"))]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    try:
        return [d for d in yaml.load_all(text, Loader) if d is not None]
    except (yaml.YAMLError, ValueError, TypeError) as error:
        problem = " ".join(str(getattr(error, "problem", None) or error).split())[:100]
        mark = getattr(error, "problem_mark", None)
        raise ValueError(f"not YAML{f', line {mark.line + 1}' if mark else ''}: {problem}") from None


def _service(name: str, service: dict) -> tuple:
    environment = service.get("environment") if isinstance(service, dict) else service
    if isinstance(environment, list) and all(isinstance(entry, str) for entry in environment):
        environment = {k: v if eq else None for k, eq, v in (entry.partition("=") for entry in environment)}
    if not isinstance(environment or {}, dict):
        raise ValueError(f"service {name}: environment is neither a list of NAME=value nor a map")
    variables, remarks = {}, []
    for key, value in (environment or {}).items():
        if value is None:
            remarks.append(("warning", key, key, "taken over from whoever starts the service"))
        elif not isinstance(value, str):
            raise ValueError(f"service {name}: {key} is a {type(value).__name__}, not a value")
        elif "$" in value.replace("$$", ""):
            remarks.append(("warning", key, value, "docker-compose fills it in from its own environment"))
        else:
            variables[key] = value.replace("$$", "$")
    if service.get("env_file"):
        remarks.append(("note", "env_file", str(service["env_file"]), "not followed: check that file too"))
    return f"service {name}", variables, tuple(remarks)


def _containers(node, owner: str, seen: set[int]) -> list[tuple]:
    """Every list under a key containers or initContainers, and ConfigMaps, wherever they are."""
    if id(node) in seen or not isinstance(node, (dict, list)):
        return []
    seen.add(id(node))
    if isinstance(node, list):
        return [found for item in node for found in _containers(item, owner, seen)]
    if "kind" in node and isinstance(node.get("metadata"), dict):
        owner = f"{node['kind']} {node['metadata'].get('name', '')}".strip()
    found = []
    if node.get("kind") == "ConfigMap" and isinstance(node.get("data"), dict):
        found.append((owner, {str(k): v for k, v in node["data"].items() if isinstance(v, str)}, ()))
    for key, value in node.items():
        if key in ("containers", "initContainers") and isinstance(value, list):
            found += [_container(item, owner) for item in value if isinstance(item, dict)]
        else:
            found += _containers(value, owner, seen)
    return found


def _container(container: dict, owner: str) -> tuple:
    name = f"{owner}, container {container.get('name', '')}".strip(", ")
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
            remarks.append(("warning", entry["name"], str(value or "valueFrom"), "the cluster fills it in"))
    if container.get("envFrom"):
        remarks.append(("note", "envFrom", str(container["envFrom"])[:80], "not followed: check what it names too"))
    return name, variables, tuple(remarks)
