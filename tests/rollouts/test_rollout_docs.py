"""Runs the page on rollouts and prices, block after block."""

import re
import sys
import types
from pathlib import Path

import numpy as np

PAGE = Path(__file__).parents[2] / "docs" / "rollouts.md"


class Scores:
    """A tensor of rollouts x tokens, whose sums over tokens are given."""

    def __init__(self, sums):
        self.sums = sums

    def sum(self, dim):
        assert dim == -1
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self.sums


def test_every_block_of_the_page_runs(monkeypatch):
    verl = types.ModuleType("verl.experimental.dataset.sampler")
    verl.AbstractCurriculumSampler = object
    for name in ("verl", "verl.experimental", "verl.experimental.dataset"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, verl.__name__, verl)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 5
    names = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["later"]["wall_seconds"] < names["prices"]["wall_seconds"]

    # A step of a trainer that gives the sampler what verl gives it.
    sampler = names["KnapsackSampler"](range(300), types.SimpleNamespace(train_batch_size=2048))
    step = np.array(list(sampler))
    assert step.size == len(sampler) == 2048
    scores = Scores(step % 2)
    sampler.update(
        types.SimpleNamespace(batch={"token_level_scores": scores}, non_tensor_batch={"index": step.astype(object)})
    )
    again = np.array(list(sampler))
    assert again.size == 2048
    assert sampler.allocator.posterior.last_rollouts[step].min() >= 2
