"""The arrows between modules, read from their imports, and how light the light part is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "frugalbo"

# From the ground up. A module may import from the layers below its own and from its own entry,
# never from a neighbour in its layer. An entry covers everything below its name; the longest counts.
LAYERS = [
    ["errors", "slot"],
    ["expression", "parameter", "constraint", "bandits"],
    ["contradiction"],
    ["space"],
    ["budget.amounts"],
    ["events", "pool", "budget.ledger", "budget.stated", "budget.shape", "budget.worth", "budget.knapsack"],
    ["problem", "job", "explanation", "rollouts", "table", "budget.price"],
    ["settling"],
    ["study", "script"],
    ["budget.cost_features", "store", "models", "optim"],
    ["budget.cost_mixture"],
    ["budget.cost_process"],
    ["budget.reload"],
    ["budget.cost"],
    ["acquisition", "budget.afford", "standby"],
    ["metabo"],
    ["propose"],
    ["session"],
    ["retry"],
    ["scheduler", "executors"],  # deciding and executing do not know of each other
    ["run"],
    [
        "report.findings",
        "report.importance",
        "report.calibration",
        "report.pareto",
        "report.exploration",
        "report.waiting",
        "report.spending",
        "report.html_parts",
    ],
    ["report.wording"],
    ["report.plot_style"],
    ["report.plot_clock"],
    ["report.plot_time", "report.plot_curves", "report.plot_pools", "report.plot_prices"],
    ["report.plot_pauses", "report.plot_pareto"],
    ["report.plots"],
    ["report.pictures", "report.html_tables"],
    ["report.html"],
    ["report"],
    ["live"],
    ["stored"],
    ["api"],
    ["recording", "together", "adaptation"],
    ["replay"],
    ["cli_problem", "cli_simulate", "cli_metabo", "cli_report", "cli_together", "cli_worker"],
    ["cli_serve"],
    ["integrations", "cli", "testing"],
    ["__main__"],
]
# What the layers alone would allow.
NEVER = [
    ("executors", {"propose", "session", "store", "models", "acquisition", "metabo", "optim", "budget.cost"}),
    ("scheduler", {"session", "store", "models", "acquisition", "metabo", "optim"}),
    ("run", {"propose", "store", "models", "acquisition", "metabo", "optim"}),
    ("store", {"problem"}),
    ("optim", {"errors", "space", "study", "problem", "job"}),
]
# These need torch, and are imported by a light module only when they are used.
HEAVY = {"models", "acquisition", "metabo", "optim", "integrations"}
# Third-party packages that only these may import when they are imported themselves.
ONLY_IN = {
    "sqlalchemy": {"store", "testing.postgres"},
    "alembic": set(),
    "rich": {"live"},
    "matplotlib": {
        "report.plots",
        "report.pictures",
        "report.html",
        *(
            f"report.plot_{name}"
            for name in ("style", "clock", "time", "curves", "pools", "prices", "pauses", "pareto")
        ),
    },
    "ax": {"integrations"},
    "torch": HEAVY,
    "botorch": HEAVY,
    "gpytorch": HEAVY,
    "scipy": HEAVY | {"report.importance", "rollouts", "propose.standings"},
    "ray": {"executors.ray_seat"},  # only actors import it at once
    "pytest": {"testing"},
    "hypothesis": {"testing"},
}
# Modules of a light layer that are imported when a model is first asked.
LATE = {f"propose.{name}" for name in ("bo", "fit", "maximise", "prediction", "regret", "worth")}
# Packages as such: their `__init__` only gathers names.
PACKAGES = {"", "budget", "rollouts", "testing"}

RANK = {entry: rank for rank, layer in enumerate(LAYERS) for entry in layer}


def _name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def entry_of(module):
    """The longest entry of the table that covers a module."""
    parts = module.split(".")
    names = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((name for name in names if name in RANK), None)


def is_for_types(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(path, *, at_import_only):
    """The absolute names that a file imports, but for those for type checkers."""
    waiting, found = [ast.parse(path.read_text())], set()
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if is_for_types(node):
                continue
            if at_import_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                continue
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
            waiting.append(node)
    return found


def ours(path, *, at_import_only=False):
    """The entries of the table that a file imports."""
    found = set()
    for name in imports(path, at_import_only=at_import_only):
        if name == "frugalbo" or name.startswith("frugalbo."):
            module = name.removeprefix("frugalbo").removeprefix(".")
            while module not in MODULES:
                module = module.rpartition(".")[0]
            found.add(entry_of(module) or module)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    if module in PACKAGES:
        return
    entry = entry_of(module)
    assert entry, f"frugalbo.{module} is new: say in LAYERS where it belongs"
    found = ours(MODULES[module]) - PACKAGES - {entry}
    up = {other for other in found if RANK[other] >= RANK[entry]}
    assert not up, f"frugalbo.{module} imports {sorted(up)}, not below it"
    never = {other for name, others in NEVER if name == entry for other in others}
    assert not found & never, f"frugalbo.{module} imports {sorted(found & never)}"


@pytest.mark.parametrize("module", MODULES)
def test_heavy_modules_are_imported_when_used(module):
    if entry_of(module) in HEAVY:
        return
    direct = ours(MODULES[module], at_import_only=True) & HEAVY
    direct -= {"models", "acquisition"} if module in LATE else set()
    assert not direct, f"frugalbo.{module} imports {sorted(direct)} at once; import it in the function that needs it"


@pytest.mark.parametrize("module", MODULES)
def test_a_third_party_package_has_its_place(module):
    for name in imports(MODULES[module], at_import_only=True):
        package = name.split(".")[0]
        allowed = ONLY_IN.get(package)
        if allowed is not None and module not in LATE:
            assert entry_of(module) in allowed or module in allowed, f"frugalbo.{module} imports {package} at once"


def test_the_table_names_only_what_there_is():
    there = {entry_of(name) for name in MODULES}
    assert set(RANK) <= there


@pytest.mark.parametrize(
    "code",
    [
        "import frugalbo",
        "import frugalbo as fb; fb.Problem, fb.Budget, fb.Study, fb.JobContext, fb.load_problem",
        "import frugalbo.run, frugalbo.scheduler.fixed, frugalbo.executors.base",
    ],
)
def test_the_core_is_light(code):
    """By what it loads and the memory that takes, which do not depend on how busy the machine is."""
    measure = f"""
import resource, sys
def kilobytes(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = kilobytes()
{code}
print(kilobytes() - before)
print(*sorted(set(sys.modules) & {{"torch", "ax", "sqlalchemy", "scipy", "matplotlib", "botorch", "rich", "pandas"}}))
"""
    out = subprocess.run([sys.executable, "-c", measure], capture_output=True, text=True, check=True).stdout
    grown, _, loaded = out.partition("\n")
    assert loaded.split() == []
    assert int(grown) < 60_000
