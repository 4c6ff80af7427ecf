"""The page's script: modules whose imports are written, resolve and are used, and which the linker makes one."""

import json
import os
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from nvfp4viz.web import asset, explorer_module, link, page_module

WEB = Path(__file__).parents[2] / "nvfp4viz" / "web"
MODULES = sorted(p.relative_to(WEB).as_posix() for p in WEB.rglob("*.js"))
LANGUAGE = set(
    re.findall(
        r"\w+",
        """
    Array ArrayBuffer BigInt Boolean Float32Array Infinity Int8Array Intl JSON Map Math NaN Number Object Promise Set
    String Symbol Uint8Array Uint32Array Error TypeError parseFloat parseInt undefined
""",
    )
)
PAGE = set(
    re.findall(
        r"\w+",
        """
    Blob CustomEvent DataView DecompressionStream FileReader MutationObserver Option ResizeObserver Response URL
    URLSearchParams addEventListener atob clearTimeout decodeURIComponent document getComputedStyle history location
    matchMedia navigator performance queueMicrotask removeEventListener requestAnimationFrame setTimeout window
""",
    )
)
WINGS = {"lib": {"lib"}, "views": {"lib", "views"}, "explorer": {"lib", "views", "explorer"},
         "report": {"lib", "views", "explorer", "report"}}  # fmt: skip
FORBIDDEN = re.compile(r"\b(restful|Knowledge|closer|heard|told|keep|found|\w*Said|\w+_SAID)\b")


@cache
def scopes(folder: Path = WEB) -> dict:
    command = ["node", "--expose-internals", str(Path(__file__).with_name("modules.cjs")), str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def target(path: str, relative: str) -> str:
    return os.path.normpath(os.path.join(os.path.dirname(path), relative)).replace(os.sep, "/")


@pytest.mark.node
@pytest.mark.parametrize("path", MODULES)
def test_every_name_is_declared_or_imported_and_used(path):
    module = scopes()[path]
    known = LANGUAGE if path.startswith(("lib/", "views/")) else LANGUAGE | PAGE  # views run without a page
    assert set(module["unresolved"]) <= known
    assert module["unused"] == []
    for name, relative in module["imports"]:
        assert name in scopes()[target(path, relative)]["exports"]


@pytest.mark.node
def test_every_export_is_imported_by_a_module_or_a_test():
    imported = {(target(path, relative), name) for path, m in scopes().items() for name, relative in m["imports"]}
    for test in Path(__file__).parent.glob("*.mjs"):
        for names, path in re.findall(r"import \{([^}]*)\} from \"[./]*nvfp4viz/web/(.*?)\"", test.read_text()):
            imported |= {(path, name.strip()) for name in names.split(",")}
    exported = {(path, name) for path, m in scopes().items() for name in m["exports"]}
    assert exported - imported == set()


@pytest.mark.node
def test_the_reader_of_scopes_sees_what_is_wrong(tmp_path):
    (tmp_path / "a.js").write_text(
        'import { one, two } from "./b.js";\nexport const f = ({ x = one, ...rest }) => { const y = x; return z; };\n'
        "for (const [k, v] of []) k.v = { v, w: undeclared };\n"
    )
    seen = scopes(tmp_path)["a.js"]
    assert seen["imports"] == [["one", "./b.js"], ["two", "./b.js"]] and seen["exports"] == ["f"]
    assert set(seen["unresolved"]) == {"z", "undeclared"} and set(seen["unused"]) == {"two", "y", "rest"}


@pytest.mark.parametrize("path", MODULES)
def test_modules_import_from_below_and_speak_the_field_s_words(path):
    text = asset(path)
    used = {target(path, m).split("/")[0] for m in re.findall(r'^import .*?from "(.*?)";$', text, re.M | re.S)}
    assert used <= WINGS[path.split("/")[0]]
    code = re.sub(r"//.*", "", text)
    assert not FORBIDDEN.findall(code)
    assert len(text.splitlines()) <= 330


def test_each_module_is_linked_once_and_keeps_its_names_to_itself():
    for whole in (explorer_module(), page_module()):
        linked = re.findall(r"^// ([a-z]+/\w+\.js)$", whole, re.M)
        assert len(linked) == len(set(linked)) and set(linked) <= set(MODULES)
        top = set(re.findall(r"^(?:const|let|class|function) ([\w$]+)", _outside(whole), re.M))
        assert all(name.startswith("$") for name in top)
    assert explorer_module().count("export default") == 1 and "export" not in _outside(page_module())


def _outside(whole: str) -> str:
    """What stands outside the functions of modules."""
    return re.sub(r"^(const \$[\w$]+) = \(\(\) => \{\n.*?^\}\)\(\);$", r"\1", whole, flags=re.M | re.S)


def test_the_linker_takes_names_along():
    files = {
        "x/a.js": 'import {\n  f,\n  g,\n} from "../y/b.js";\nconst own = 1;\nexport default { sum: f() + g + own };\n',
        "y/b.js": "const own = 2;\nexport const g = 3;\nexport async function f() { return own; }\n",
    }
    whole = link.__wrapped__("x/a.js", files.__getitem__)
    assert whole.index("// y/b.js") < whole.index("// x/a.js")
    assert "return { g, f };" in whole and "const {\n  f,\n  g,\n} = $y$b;" in whole
    assert whole.endswith("export default $x$a.default_;\n")


@pytest.mark.parametrize("text, why", [
    ('import { a } from "./a.js";\n', r"circle: a.js -> a.js"),
    ('import * as b from "./b.js";\n', r"does not know 'import \* as b"),
    ("export { a };\n", "does not know 'export { a };'"),
])  # fmt: skip
def test_the_linker_refuses_what_it_does_not_know(text, why):
    with pytest.raises(ValueError, match=why):
        link.__wrapped__("a.js", {"a.js": text}.__getitem__)
