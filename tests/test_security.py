"""What the package does not do with what it is given: no pickles, no shell, no evaluation of text."""

import ast
from pathlib import Path

import pytest

import frugalbo

PACKAGE = Path(frugalbo.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
# `metabo.weights` names the errors that torch.load(weights_only=True) raises.
NAMES_ERRORS = {"metabo/weights.py"}


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def called(tree):
    """The name of what is called, as far as it has one, with its keywords."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_unpickled_given_to_a_shell_or_evaluated(path):
    tree = ast.parse(path.read_text())
    if str(path.relative_to(PACKAGE)) not in NAMES_ERRORS:
        assert not PICKLES & set(imported(tree))
    for name, words in called(tree):
        assert name not in ("eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads"), name
        assert words.get("shell", "False") == "False", name
        if name == "torch.load":
            assert words["weights_only"] == "True"
        if name in ("np.load", "numpy.load"):
            assert words["allow_pickle"] == "False"
