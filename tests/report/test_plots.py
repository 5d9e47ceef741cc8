"""The pictures and the page: that they draw what is so, for any run, and nothing that a job wrote gets out."""

import io
import re
import subprocess
import sys
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from frugalbo.budget.amounts import Cost
from frugalbo.events import Ended, Outcome, Reported, Started
from frugalbo.problem import Fidelity, Minimize, Problem
from frugalbo.report import Report, pictures, plot_style, plots
from frugalbo.report.findings import best_so_far, gantt, main_resource, results
from frugalbo.report.html import page, text
from frugalbo.report.importance import Importance
from frugalbo.space import Float, Space
from frugalbo.study import Status, Study
from frugalbo.testing.studies import RECIPES, Recipe, make_study

NO_IMPORTANCE = Importance((), (), (), None, 0, "not asked for")
HOSTILE = make_study(RECIPES["hostile"])


recipes = st.builds(
    Recipe,
    seed=st.integers(0, 99),
    trials=st.integers(0, 23),
    slots=st.integers(1, 5),
    budget=st.sampled_from([None, 13, 67, "0.3 USD", "11 trials", "50 s, 7 trials and 30 s wall"]),
    space=st.sampled_from(["float", "mixed", "conditional", "wide"]),
    maximize=st.booleans(),
    steps=st.sampled_from([None, 2, 7, 40]),
    defaults=st.booleans(),
    failing=st.sampled_from([0.0, 0.2, 1.0]),
    crashes=st.integers(0, 2),
    left_running=st.integers(0, 3),
    hostile=st.booleans(),
)


def rendered(study):
    """All pictures of a study, drawn for good."""
    figures = pictures.draw(study, NO_IMPORTANCE)
    for name, figure in figures.items():
        assert pictures.svg(figure, name, "a picture").startswith("<svg")
    return figures


@pytest.mark.slow
@settings(deadline=None, max_examples=8)
@given(recipe=recipes)
def test_every_picture_of_any_run_renders_without_a_warning(recipe):
    rendered(make_study(recipe))


@pytest.mark.parametrize("name", ["empty", "one", "all failed", "running", "single step", "hostile"])
def test_every_picture_of_a_peculiar_run_renders_without_a_warning(name):
    figures = rendered(make_study(RECIPES[name]))
    assert list(figures) == list(plots.FIGURES)
    assert all(isinstance(figure, Figure) for figure in figures.values())


def values_of(spread, n=11):
    """A study of `n` single-step trials with the given losses."""
    study = Study(Problem("p", Space({"x": Float(0, 1)}), "nothing:here", Minimize("loss"), Fidelity("steps", 1, 1)))
    for i in range(n):
        study.apply(Started(i, 0, {"x": (i + 1) / 20}, 0, 1, 1, Cost(), "a", float(i)))
        study.apply(Reported(i, 0, 1, {"loss": spread(i)}, float(i)))
        study.apply(Ended(i, 0, Outcome.COMPLETED, Cost(1.0), i + 1.0))
    return study


def test_the_line_of_the_best_passes_through_every_improvement():
    study = make_study(RECIPES["typical"])
    line = next(line for line in plots.best_so_far(study).axes[0].lines if line.get_label() == "best so far")
    drawn = [(float(x), float(y)) for x, y in line.get_xydata()]  # losses are minimised, seconds are seconds
    assert np.array(drawn[:-1]) == pytest.approx(np.array([row[:2] for row in best_so_far(study)]))
    assert drawn[-1][1] == drawn[-2][1]
    assert line.get_drawstyle() == "steps-post"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("typical", "spent (device-seconds)"),
        ("many", "spent (device-minutes)"),
        ("dollars", "spent (US dollars)"),
        ("evaluations", "spent (evaluations)"),
        ("wall", "spent (wall-seconds)"),
    ],
)
def test_the_axis_of_the_budget_has_its_unit(name, label):
    study = make_study(RECIPES[name])
    assert plots.best_so_far(study).axes[0].get_xlabel() == label


def test_the_axis_reaches_to_the_budget():
    ax = plots.best_so_far(make_study(RECIPES["running"])).axes[0]
    assert ax.get_xlim() == pytest.approx((0, 120 * 1.02))


def test_a_far_outlier_is_marked_at_the_edge_and_does_not_squash_the_rest():
    ax = plots.best_so_far(values_of(lambda i: 1e6 if i == 5 else 2.0 + 0.01 * i)).axes[0]
    low, high = ax.get_ylim()
    assert low < 2.0
    assert 2.1 < high < 3.0
    [edge] = [c for c in ax.collections if c.get_label() == "beyond the axis (1)"]
    assert edge.get_offsets().tolist() == [[6.0, high]]


def test_values_over_many_powers_of_ten_have_a_logarithmic_axis():
    assert plots.best_so_far(values_of(lambda i: 10.0 ** (i / 4))).axes[0].get_yscale() == "log"
    assert plots.best_so_far(values_of(lambda i: 2.0 + i)).axes[0].get_yscale() == "linear"


def test_slices_draw_each_result_once_and_failures_only_above_the_panel():
    study = make_study(RECIPES["typical"])
    ax = plots.slices(study).axes[0]  # lr, a float
    known = {(study.trials[r.trial].params["lr"], r.value) for r in results(study)}
    inside, above = [], []
    for collection in ax.collections:
        transform = collection.get_offset_transform()
        points = [tuple(point) for point in np.asarray(collection.get_offsets()).tolist()]
        (above if transform == ax.get_xaxis_transform() else inside).extend(points)
    assert np.array(sorted(inside)) == pytest.approx(np.array(sorted(known)))
    failed = [trial.params["lr"] for trial in study.with_status(Status.FAILED)]
    assert sorted(x for x, _ in above) == pytest.approx(sorted(failed))
    assert {y for _, y in above} == {1.05}
    assert ax.get_xscale() == "log"


def test_learning_curves_hold_the_defaults_and_the_best():
    study = make_study(RECIPES["typical"])
    lines = {line.get_label(): line for line in plots.learning_curves(study).axes[0].lines}
    best = study.best()
    assert lines[f"the best, trial {best.number}"].get_xydata().tolist() == [list(p) for p in best.curve("loss")]
    assert to_hex(lines["defaults, trial 0"].get_color()) == plot_style.ORANGE


def test_the_one_trial_that_is_the_defaults_and_the_best_is_drawn():
    study = make_study(RECIPES["one"])
    lines = {line.get_label(): line for line in plots.learning_curves(study).axes[0].lines}
    assert len(lines["the best, trial 0 (the defaults)"].get_xydata()) == 10


def test_parallel_coordinates_break_the_line_at_an_inactive_knob():
    study = make_study(RECIPES["no ledger"])
    names = study.problem.space.names
    lines = plots.parallel_coordinates(study).axes[0].lines
    known = [study.trials[result.trial] for result in results(study)]
    gaps = sorted([*(name not in trial.params for name in names), False] for trial in known)
    assert sorted(np.isnan(line.get_ydata()).tolist() for line in lines) == gaps
    assert sum(map(sum, gaps)) > 0


def test_the_gantt_has_a_bar_for_each_segment_in_the_colour_of_its_end():
    study = make_study(RECIPES["running"])
    ax = plots.gantt(study).axes[0]
    wanted = sorted(plot_style.COLOURS[row.outcome.value if row.outcome else "running"] for row in gantt(study))
    assert sorted(to_hex(bar.get_facecolor()) for bar in ax.patches) == wanted
    rows = gantt(study)
    first = min(row.start_s for row in rows)
    ended = sorted((row.start_s - first, row.end_s - row.start_s) for row in rows if row.end_s is not None)
    bars = sorted((bar.get_x(), bar.get_width()) for bar in ax.patches if to_hex(bar.get_facecolor()) != "#f0e442")
    assert np.array(bars) == pytest.approx(np.array(ended))


def test_a_long_pause_is_cut_out_of_the_gantt_and_named():
    ax = plots.gantt(make_study(RECIPES["resumed"])).axes[0]
    assert ax.get_xlim()[1] < 150  # the two pauses take 40,000 s each
    assert sum("11.1 h pause" in t.get_text() for t in ax.texts) == 2
    assert "pauses cut out" in ax.get_xlabel()


def test_the_money_bar_is_as_long_as_the_budget():
    study = make_study(RECIPES["typical"])
    bars = plots.money(study).axes[0].patches
    assert sum(bar.get_width() for bar in bars) == pytest.approx(1.0)
    assert max(bar.get_x() + bar.get_width() for bar in bars) == pytest.approx(1.0)


def test_importance_bars_are_the_shares_largest_on_top():
    found = Importance(("a", "b"), (0.1, 0.5), (0.3, 0.7), 0.9, 31)
    ax = plots.importance(make_study(RECIPES["one"]), found).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]  # from below
    assert [bar.get_width() for bar in ax.patches] == [0.3, 0.7, 0.1, 0.5]
    assert "b takes part in 70 %" in ax.get_title(loc="left")


@pytest.mark.parametrize("name", list(plots.FIGURES))
def test_a_picture_is_shown_by_a_notebook_which_cuts_the_margins_off(name):
    figure = plots.FIGURES[name](make_study(RECIPES["typical"]))
    figure.savefig(io.BytesIO(), bbox_inches="tight")


def test_plots_leave_the_settings_of_matplotlib_alone():
    before = dict(mpl.rcParams)
    rendered(make_study(RECIPES["two"]))
    assert dict(mpl.rcParams) == before


def test_plots_do_not_load_pyplot():
    code = "import sys, frugalbo.report.html; print('matplotlib.pyplot' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "False"


@pytest.mark.parametrize("raw", ["$x^2$", "a $ b $ c", r"\frac{1}{2}", "$", "学\N{CRAB}\x00\n"])
def test_texts_are_drawn_as_they_are_and_never_as_formulas(raw):
    figure = Figure()
    shown = figure.text(0, 0, plot_style.plain(raw))
    image = pictures.svg(figure, "n", "d")
    drawn = re.findall(r"<text[^>]*>(.*?)</text>", image)
    assert [d for d in drawn if d] == [re.sub(r"[^\x20-\x7e]", "□", " ".join(raw.split()))]
    assert shown.get_text().count("\n") == 0


class Page(HTMLParser):
    """What is on a page: tags with attributes, ids, scripts, and whether tags close in order."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.tags, self.ids, self.open, self.words = [], [], [], []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def hostile_page():
    return page(Report(HOSTILE, "<run>", "<i>why</i>\x07"), pictures.draw(HOSTILE, NO_IMPORTANCE))


def test_nothing_that_a_job_wrote_becomes_markup(hostile_page):
    found = Page(hostile_page)
    assert found.open == []
    assert [tag for tag, _ in found.tags].count("script") == 1  # ours
    assert "<script>alert" not in hostile_page
    assert "<b>$x" not in hostile_page
    assert "<i>why" not in hostile_page
    assert not [1 for _, attrs in found.tags for name in attrs if name.startswith("on")]
    assert "<script>alert('x')</script>" in "".join(found.words)  # it is there to be read
    assert "\x1b" not in hostile_page
    assert "\x00" not in hostile_page
    assert "\x07" not in hostile_page


def test_the_page_needs_nothing_but_itself(hostile_page):
    for tag, attrs in Page(hostile_page).tags:
        assert tag not in {"link", "img", "iframe"}
        assert all(
            value.startswith(("#", "data:image/png;base64,"))
            for name, value in attrs.items()
            if name in {"href", "src", "xlink:href"}
        )
    assert "@import" not in hostile_page
    assert not re.search(r"url\((?!#)", hostile_page)


def test_ids_are_unique_and_references_find_them(hostile_page):
    found = Page(hostile_page)
    assert len(found.ids) == len(set(found.ids))
    wanted = set(re.findall(r'(?:url\(#|href="#)([^")]+)', hostile_page))
    assert wanted <= set(found.ids)
    assert wanted


def test_logs_are_cut_to_their_end(hostile_page):
    # Each failed trial printed over 100,000 characters; the last line is what matters.
    assert len(hostile_page) < 1_000_000
    assert "A" * 1000 not in hostile_page
    assert hostile_page.count("Tried to allocate 1.21 GiB") == 2
    assert "(the end of the log)" in hostile_page


def test_the_page_says_the_finding_first(hostile_page):
    finding = "Best loss 2.327 after 71.5 of 200 device-seconds; no result of the defaults"
    assert Report(HOSTILE).to_json()["finding"] == finding
    heading = re.search(r"<h1>(.*?)</h1>", hostile_page)[1]
    assert re.sub(r"<[^>]*>", "", heading) == finding
    assert f"{finding}</title>" in hostile_page


@pytest.mark.parametrize(
    ("raw", "harmless"),
    [
        ("<&>\"'", "&lt;&amp;&gt;&quot;&#x27;"),
        ("a\x1b[2J\r\nb\tc", "a□[2J□\nb\tc"),
        ("\ud800", "□"),
        ("x" * 400, "x" * 299 + "…"),
    ],
)
def test_text_is_harmless(raw, harmless):
    assert text(raw) == harmless


def test_write_leaves_a_page_and_a_picture_of_each_kind(tmp_path):
    where = Report(make_study(RECIPES["two"]), "run", "done").write(tmp_path / "deep" / "report")
    assert where == tmp_path / "deep" / "report" / "index.html"
    names = sorted(path.name for path in where.parent.iterdir())
    assert names == sorted(["index.html", *(f"{name}.png" for name in plots.FIGURES)])
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in where.parent.glob("*.png"))


@pytest.mark.slow
def test_the_same_study_gives_the_same_bytes_in_another_process(tmp_path):
    code = (
        "import sys; from pathlib import Path; from frugalbo.report import Report;"
        "from frugalbo.testing.studies import RECIPES, Recipe, make_study;"
        "Report(make_study(RECIPES['single step']), 'r', 'w').write(Path(sys.argv[1]))"
    )
    for i, seed in enumerate(("1", "2")):
        environment = {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1", "PATH": "", "HOME": str(tmp_path)}
        command = [sys.executable, "-c", code, str(tmp_path / str(i))]
        subprocess.run(command, check=True, env=environment, timeout=120)
    files = sorted(path.name for path in (tmp_path / "0").iterdir())
    assert files == sorted(["index.html", *(f"{name}.png" for name in plots.FIGURES)])
    for name in files:
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes(), name


def test_every_main_resource_has_its_picture():
    assert {main_resource(make_study(recipe)) for recipe in RECIPES.values()} == {
        "device_seconds",
        "dollars",
        "evaluations",
        "wall_seconds",
    }
