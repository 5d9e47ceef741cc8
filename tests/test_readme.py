"""The README's Python runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
# A block without imports is a sketch of a user's own job; it must at least compile.
WHOLE = [block for block in BLOCKS if block.startswith(("import", "from"))]


def test_most_blocks_are_whole_programs():
    assert len(WHOLE) >= len(BLOCKS) - 1 >= 3


@pytest.mark.parametrize("block", BLOCKS)
def test_each_block_compiles(block):
    compile(block, "README.md", "exec")


@pytest.mark.slow
@pytest.mark.parametrize("block", WHOLE, ids=lambda block: re.findall(r"fb\.\w+|Frugal", block)[0])
def test_each_program_runs(block, tmp_path):
    script = tmp_path / "example.py"
    script.write_text(block)
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    if "summary" in block:
        assert "loss" in done.stdout
