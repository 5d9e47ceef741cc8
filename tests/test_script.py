"""A job as a script: options from a dataclass, reports as lines of JSON, refusals in one line."""

import json
from dataclasses import dataclass
from typing import Literal

import pytest

from frugalbo import by_hand
from frugalbo.errors import ProblemError


@dataclass(frozen=True)
class Config:
    lr: float = 0.5
    layers: int = 2
    kind: Literal["plain", "deep"] = "plain"
    skip_head: bool = False

    def __post_init__(self):
        if self.lr <= 0:
            raise ProblemError(f"expected lr > 0, got {self.lr}")


def trial(*words):
    return by_hand(Config, objective="loss", steps=lambda config: 10 * config.layers, arguments=words)


def test_without_options_it_is_a_whole_run_of_the_defaults(capsys):
    with trial() as job:
        assert job.params == {"lr": 0.5, "layers": 2, "kind": "plain", "skip_head": False}
        assert (job.start, job.until, job.planned, job.seed) == (0, 20, 20, 0)
        job.save(1, lambda path: path.write_text("state"))
        assert job.checkpoint_dir.is_dir()
        job.report(20, loss=0.25)
    assert json.loads(capsys.readouterr().out) == {"step": 20, "metrics": {"loss": 0.25}}
    assert not job.checkpoint_dir.exists()


def test_options_are_the_fields_and_four_more():
    words = "--lr 1e-3 --layers 3 --kind deep --skip-head --steps 7 --seed 4 --device cuda:1 --threads 1"
    with trial(*words.split()) as job:
        assert job.params == {"lr": 1e-3, "layers": 3, "kind": "deep", "skip_head": True}
        assert (job.until, job.planned, job.seed, job.device, job.threads) == (7, 7, 4, "cuda:1", 1)


def test_the_steps_follow_from_the_configuration():
    with trial("--layers", "5") as job:
        assert job.planned == 50


def test_what_a_configuration_refuses_is_one_line():
    with pytest.raises(SystemExit, match=r"^error: expected lr > 0, got -1.0$"), trial("--lr", "-1"):
        pass


def test_what_a_job_refuses_is_one_line():
    with pytest.raises(SystemExit, match=r"^error: no data$"), trial():
        raise ProblemError("no data")


def test_a_job_that_breaks_down_breaks_down():
    with pytest.raises(ZeroDivisionError), trial():
        1 / 0  # noqa: B018


@pytest.mark.parametrize("words", [("--kind", "wide"), ("--layers", "two"), ("--width", "3")])
def test_words_that_cannot_be_understood_are_refused(words, capsys):
    with pytest.raises(SystemExit) as refused, trial(*words):
        pass
    assert refused.value.code == 2
    assert words[-1] in capsys.readouterr().err
