"""The structure of the package: floors, and imports that run one way."""

import ast
from collections import defaultdict
from pathlib import Path

import cdedu

ROOT = Path(cdedu.__file__).parent
FLOORS = (
    ("files", "limits", "plotting"),
    ("noise", "solvers", "teacher", "mixture", "student", "perceptual", "losses", "samplers", "editing"),
    ("data", "networks"),
    ("adapters", "recipes", "runtime", "training", "checkpoints", "records", "runs", "samples"),
    ("evaluation",),
    ("methods", "pretrained"),
    ("course",),
    ("checks", "fitting", "latents", "cli", "__init__"),
)
"""From the ground up. A file imports from its own floor and those below it, inside functions as well."""
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def imports(source: str, module: str) -> set[str]:
    """Modules of the package that a source file imports, anywhere in it: ``noise``, ``methods.latent``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join(
                [*["cdedu"] * bool(node.level), *package, *[node.module or ""] * bool(node.module)]
            )
            names = [f"{base}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "cdedu" and len(parts) > 1:
                found.add(".".join(parts[1:]))
    return {known for name in found if (known := module_of(name))}


def module_of(name: str) -> str | None:
    """The module behind a dotted name, which may go on to something in it."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:n])
        if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
            return ".".join(parts[:n])
    return None


def graph() -> dict[str, set[str]]:
    out = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        inside = ".".join(parts)  # from here relative imports count
        out[name] = imports(path.read_text(encoding="utf-8"), inside) - {name}
    return out


def against(arrows: dict[str, set[str]]) -> list[str]:
    """Every import that runs up."""
    return [
        f"{name} imports {other}"
        for name, others in arrows.items()
        for other in sorted(others)
        if FLOOR[other.split(".")[0]] > FLOOR[name.split(".")[0]]
    ]


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, or nothing."""
    left = defaultdict(set, {name: set(others) for name, others in arrows.items()})
    while ends := [name for name, others in left.items() if not others & left.keys()]:
        for name in ends:
            del left[name]
    return sorted(left)


def test_every_file_has_a_floor():
    assert {name.split(".")[0] for name in graph()} == set(FLOOR)


def test_imports_run_one_way():
    assert not against(graph()), "an arrow runs up"
    assert not circle(graph()), "a circle"


def test_an_arrow_that_runs_up_is_found_wherever_it_stands():
    for line in (
        "from cdedu.training import State",
        "import cdedu.training",
        "from cdedu import training",
        "from . import training",
        "from .training import State",
        "def f():\n    from cdedu import training",
    ):
        assert imports(line, "noise") == {"training"}
        assert against({"noise": imports(line, "noise")}) == ["noise imports training"]
    assert imports("from ..training import State", "methods.dmd") == {"training"}
    assert not against({"training": {"noise"}})


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]
    assert not circle({"a": {"b"}, "b": {"c"}, "c": set()})


def test_the_reference_page_knows_every_public_file():
    import bookext

    listed = set(" ".join(bookext.MODULES.values()).split())
    inner = {"data.dataset", "data.small"}  # their names are those of cdedu.data
    course = {name for name in graph() if name.startswith("course")} | {"checks", "__init__"}
    assert listed - course == {name for name in graph() if name != "methods"} - course - inner
