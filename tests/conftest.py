import importlib.util
import os
import sys

# Before torch is imported anywhere: tests share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from frugalbo.testing.postgres import PrivatePostgres, find_programs, fresh_schema

# A loaded machine is slow, and that is no fault of a test; pytest's own timeout ends what hangs.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """What draws from torch's global generator draws the same alone as after other tests."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def postgres():
    """A server of our own."""
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed: pip install 'frugalbo[postgresql]'")
    if find_programs() is None:
        pytest.skip("PostgreSQL's server is not installed (Debian: apt-get install postgresql)")
    with PrivatePostgres() as server:
        yield server


@pytest.fixture
def postgresql_url(request):
    """An empty schema in the database of FRUGALBO_TEST_POSTGRESQL_URL, else in a server of our own."""
    where = os.environ.get("FRUGALBO_TEST_POSTGRESQL_URL") or request.getfixturevalue("postgres").url
    with fresh_schema(where) as url:
        yield url
