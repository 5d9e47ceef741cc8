"""Runs the page on bandits, block after block."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "bandits.md"


def test_every_block_of_the_page_runs():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 7
    names = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["favourite"] == 2
    assert names["changes"] <= 10


def test_the_page_names_every_kind():
    from frugalbo.bandits import KINDS

    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in KINDS if f"`{name}`" not in page] == []
