"""What people see while a run goes on."""

import io
import json

import pytest
from rich.console import Console

from frugalbo.events import event_from_json
from frugalbo.live import JsonView, LogView, TableView, render
from frugalbo.testing.studies import RECIPES, make_events, make_study


def play(view, recipe):
    study = make_study(recipe)
    events = list(make_events(recipe))
    with view:
        view(study, study.ledger.balance(), events)
    return study, events


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.budget is not None])
def test_every_study_can_be_shown(name):
    out = io.StringIO()
    study, _ = play(TableView(Console(file=out, width=100, force_terminal=True)), RECIPES[name])
    text = out.getvalue()
    for name in study.ledger.balance().limited:
        if name != "memory_bytes":
            assert name.replace("_", " ") in text
    if study.best():
        assert f"trial {study.best().number}" in text


def test_json_lines_are_the_events():
    recipe = RECIPES["typical"]
    out = io.StringIO()
    _, events = play(JsonView(out), recipe)
    read = [event_from_json(json.loads(line)) for line in out.getvalue().splitlines()]
    assert repr(read) == repr(events)  # some losses are NaN, which equals nothing


def test_the_log_has_a_line_for_each_start_and_each_end():
    recipe = RECIPES["typical"]
    out = io.StringIO()
    study, _ = play(LogView(out), recipe)
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("trial 0 starts on ")
    starts = [start.start for trial in study.trials.values() for start in trial.starts]
    assert sum(" starts on " in line for line in lines) == starts.count(0)
    went_on = [int(line.split()[6]) for line in lines if " goes on from step " in line]
    assert sorted(went_on) == sorted(filter(None, starts))
    assert any(starts)
    assert sum(" after " in line for line in lines) == sum(len(t.ends) for t in study.trials.values())


def test_markup_in_what_a_user_wrote_is_not_obeyed():
    recipe = RECIPES["typical"]
    study = make_study(recipe)
    name = study.problem.space.names[0]
    for trial in study.trials.values():
        trial.params = {name: "[red]stop[/red]"}
    out = io.StringIO()
    Console(file=out, width=200).print(render(study, study.ledger.balance()))
    assert "[red]stop[/red]" in out.getvalue()
