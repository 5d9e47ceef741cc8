"""Runs the page on surrogates, block after block."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.mark.slow
def test_every_block_of_the_page_runs():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 7
    names = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["tasks"].used in ((), ("last month",))
    assert names["look"].shape == (1, 3)
    assert names["env"].next_environment([0.5, 0.5]) in (0, 1, 2)
