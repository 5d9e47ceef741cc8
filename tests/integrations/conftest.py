"""Ax is an extra; without it nothing here runs."""

import importlib.util
import logging
import warnings

import pytest

collect_ignore_glob = [] if importlib.util.find_spec("ax") else ["test_ax_*"]

if not collect_ignore_glob:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ax 1.3.1 warns of an import of its own
        import frugalbo.integrations.ax  # noqa: F401


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Without Ax's warnings of its own internals, and its log of every trial."""
    warnings.filterwarnings("ignore", module=r"ax\.")
    for name in [name for name in logging.Logger.manager.loggerDict if name.split(".")[0] == "ax"]:
        logging.getLogger(name).setLevel(logging.ERROR)
    return (yield)
