"""Runs the page on surrogates, block after block."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.mark.slow
def test_every_block_of_the_page_runs():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 8
    names = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["tasks"].used in ((), ("last month",))
    assert names["best"].shape == (1, 3)
    assert names["look"].at in (1 / 9, 1 / 3, 1.0)
    assert len({(*x.tolist(), at) for x, at in names["batch"]}) == 4
    assert names["env"].next_environment([0.5, 0.5]) in (0, 1, 2)
