"""Who may import whom, read from the source: what is written without Flower stays so, and layers lean one way only.

Imports inside functions and under `TYPE_CHECKING` count like any other: they hide a circle, they don't undo it.
"""

import ast
import subprocess
import sys
from collections.abc import Collection
from functools import cache
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.processes import ROOT

LAYERS = ("client", "flower_app", "orchestrator", "shared")
ADAPTERS = [
    "client.flower_client",
    "client.stream",
    "flower_app.client_app",
    "flower_app.codec",
    "flower_app.grid_transport",
    "flower_app.server_app",
    "orchestrator.flower_transport",
    "orchestrator.server",
    "orchestrator.strategy",
]
APPS = {  # two halves, each over what is installed on its side
    "flower_app.client_app": {"client", "flower_app", "shared"},
    "flower_app.grid_transport": {"flower_app", "orchestrator", "shared"},
    "flower_app.server_app": {"flower_app", "orchestrator", "shared"},
}
SIMULATION = "orchestrator.simulation"  # both sides in one process, for whoever has all tenants' rows anyway
Graph = dict[str, set[str]]  # module -> what it imports
Edge = tuple[str, str]

# Circles that are still there, by the imports that have to go. The list may get shorter, and must not get longer.
CIRCLES: dict[str, set[Edge]] = {
    "the checks of the settings name the settings' class": {("shared.config_checks", "shared.config")},
}


def imports(source: str, package: str, known: Collection[str] = ()) -> set[str]:
    """The modules that a source imports, wherever it does.

    Args:
        source: of a module.
        package: which it stands in.
        known: names of modules: of `from a import b` it is `a.b` if that is one of them, and `a` if not.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {name if (name := f"{base}.{alias.name}") in known else base for alias in node.names}
    return found


@cache
def graph() -> Graph:
    """Every module of the three layers, and all that it imports, of others' modules too."""
    sources, packages = {}, {}
    for path in (path for layer in LAYERS for path in ROOT.glob(f"{layer}/**/*.py")):
        package = ".".join(path.relative_to(ROOT).parent.parts)
        name = package if path.stem == "__init__" else f"{package}.{path.stem}"
        sources[name], packages[name] = path.read_text(encoding="utf-8"), package
    return {name: imports(source, packages[name], sources.keys()) for name, source in sources.items()}


def circle(modules: Graph, without: Collection[Edge] = ()) -> list[str]:
    """One circle among these modules, its first at both ends; empty if there is none."""
    within = {
        module: {other for other in imported if other in modules and (module, other) not in without}
        for module, imported in modules.items()
    }
    try:
        TopologicalSorter(within).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def layer(module: str) -> str:
    return module.partition(".")[0]


def test_the_reading_sees_every_way_to_import() -> None:
    source = """
import a
import b.c as d
from e import f, g
from . import h
from .i import j
from ..k import l
if TYPE_CHECKING:
    from m import n
def later():
    import o
    class Inner:
        from p import q
"""
    known = {"e.f", "x.y.h"}
    assert imports(source, "x.y", known) == {"a", "b.c", "e", "e.f", "x.y.h", "x.y.i", "x.k", "m", "o", "p"}
    assert len(graph()) > 100
    assert "shared.data_sources.own_source" in graph()["shared.data_utils"], "an import inside a function"
    assert "shared.config" in graph()["shared.config_checks"], "an import for annotations alone"
    assert "shared.masking" in graph()["client.private_sum"], "a package's own names"


def test_flower_stays_in_the_adapters() -> None:
    assert sorted(module for module, imported in graph().items() if "flwr" in map(layer, imported)) == ADAPTERS


def test_layers_lean_on_shared_alone() -> None:
    ours = {*LAYERS, "tests", "benchmarks"}
    for module, imported in graph().items():
        if module != SIMULATION:
            allowed = APPS.get(module, {layer(module), "shared"})
            assert {layer(other) for other in imported} & ours <= allowed, module


def test_benchmarks_run_without_the_tests() -> None:
    """`python benchmarks/engines.py` ended with "No module named 'tests'": they are in nobody's installation."""
    sources = {path.stem: path.read_text(encoding="utf-8") for path in ROOT.glob("benchmarks/*.py")}
    assert len(sources) > 20
    assert [name for name, source in sources.items() if "tests" in map(layer, imports(source, "benchmarks"))] == []


def test_no_server_loads_the_tenants_code() -> None:
    """One module plays both sides. It is there for others, and the package that offers it loads it when it is asked."""
    assert {layer(other) for other in graph()[SIMULATION]} & {*LAYERS} == {"client", "orchestrator", "shared"}
    assert [module for module, imported in graph().items() if SIMULATION in imported] == ["orchestrator"]
    loaded = "import sys, orchestrator; print({'client', 'torch', 'orchestrator.simulation'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", loaded], cwd=ROOT, text=True) == "set()\n"


def test_no_module_imports_itself_over_others() -> None:
    assert circle(graph(), [edge for edges in CIRCLES.values() for edge in edges]) == []


@pytest.mark.parametrize(("name", "edge"), [(name, edge) for name, edges in CIRCLES.items() for edge in sorted(edges)])
def test_an_allowed_circle_is_still_there(name: str, edge: Edge) -> None:
    """An import that closes no circle any more has to leave the list."""
    others = [other for edges in CIRCLES.values() for other in edges if other != edge]
    assert edge[0] in circle(graph(), others), f"take {edge} out of {name!r}"


def test_a_circle_is_found() -> None:
    straight: Graph = {"a": {"b", "numpy"}, "b": {"c"}, "c": set()}
    assert circle(straight) == []
    assert sorted(set(circle({**straight, "c": {"a"}}))) == ["a", "b", "c"]
    assert circle({**straight, "c": {"a"}}, [("c", "a")]) == []
