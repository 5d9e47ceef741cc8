import importlib.util
import json
import math
import subprocess
import sys
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from frugalbo.errors import ProblemError, StorageError
from frugalbo.expression import Expression
from frugalbo.job import DivergedError, JobContext
from frugalbo.optim import Frugal, param_groups, predict_state_bytes
from frugalbo.problem import Problem, load_problem

FOLDER = Path(__file__).resolve().parents[2] / "problems" / "tiny_llama"


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


train = load("tiny_llama_train_under_test", FOLDER / "train.py")
llama = sys.modules["llama"]
corpus = sys.modules["corpus"]

SMALL = llama.Size(
    hidden=20,  # 2 heads of 10 channels
    ffn=29,
    layers=2,
    heads=2,
    sequence=13,
    batch=6,
    micro_batch=3,  # two micro-batches a step
    val_sequences=11,
    text_bytes=200_000,
    steps=8,
    vocab=97,
)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(llama.SIZES, "mini", SMALL)
    corpus.load_corpus.cache_clear()
    yield SMALL
    corpus.load_corpus.cache_clear()


def segment(folder, start, until, planned, *, seed=5, stop=False, **params):
    reports = []
    job = JobContext(
        params=params,
        start=start,
        until=until,
        planned=planned,
        seed=seed,
        device="cpu",
        threads=1,
        checkpoint_dir=folder,
        objective="val_loss",
        sink=reports.append,
        stop_requested=stop,
    )
    train.main(job)
    return reports


def saved(folder, step):
    return torch.load(folder / f"step-{step}.ckpt", weights_only=True)


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for k in a:
            assert_same(a[k], b[k])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


# Segments and checkpoints


@pytest.mark.parametrize(
    "params",
    [
        {"update_gap": 3},  # a new subspace at step 4, one step after the pause of 2 has ended
        {"projection": "columns", "update_gap": 3},
        {"projection": "svd", "state_free": "none", "reset_state": False, "update_gap": 3},
        {"optimizer": "adamw", "schedule": "linear"},
    ],
    ids=["blockwise", "columns", "galore", "adamw"],
)
def test_two_steps_pause_two_steps_are_four_steps(small, tmp_path, params):
    params |= {"lr": 1e-2, "weight_decay": 0.1}
    straight = segment(tmp_path / "straight", 0, 4, 4, **params)
    first = segment(tmp_path / "paused", 0, 2, 4, **params)
    second = segment(tmp_path / "paused", 2, 4, 4, **params)
    assert_same(saved(tmp_path / "straight", 4), saved(tmp_path / "paused", 4))
    timeless = [[(r["step"], r["metrics"]["train_loss"]) for r in reports] for reports in (straight, first + second)]
    assert timeless[0] == timeless[1]
    assert straight[-1]["metrics"]["val_loss"] == second[-1]["metrics"]["val_loss"]


def test_the_training_loss_of_a_report_includes_the_steps_before_a_pause(small, tmp_path):
    # Of 20 planned steps every second is reported: at step 4, the mean of steps 3 and 4.
    straight = segment(tmp_path / "straight", 0, 4, 20, lr=1e-2)
    segment(tmp_path / "paused", 0, 3, 20, lr=1e-2, stop=True)  # stops after step 1, without a report
    first = segment(tmp_path / "paused", 1, 2, 20, lr=1e-2)
    assert first[0]["metrics"]["train_loss"] == straight[0]["metrics"]["train_loss"]


def test_a_job_that_is_asked_to_stop_leaves_a_checkpoint_after_the_step_it_is_in(small, tmp_path):
    reports = segment(tmp_path, 0, 40, 40, stop=True)
    assert reports == []
    assert [p.name for p in tmp_path.iterdir()] == ["step-1.ckpt"]


def test_a_job_that_is_asked_to_stop_in_its_last_step_has_done_it_all(small, tmp_path):
    (report,) = segment(tmp_path, 0, 1, 1, stop=True)
    assert report["step"] == 1
    assert math.isfinite(report["metrics"]["val_loss"])


def test_the_objective_is_reported_where_a_segment_ends(small, tmp_path):
    # Of 40 planned steps every 4th is reported and every 8th validated; 9 is neither.
    steps = {r["step"]: "val_loss" in r["metrics"] for r in segment(tmp_path, 0, 9, 40)}
    assert steps == {4: False, 8: True, 9: True}


def test_a_checkpoint_of_another_run_is_refused(small, tmp_path):
    segment(tmp_path, 0, 2, 4)
    with pytest.raises(ProblemError, match="expected planned 6, got 4"):
        segment(tmp_path, 2, 6, 6)
    with pytest.raises(ProblemError, match="expected seed 6, got 5"):
        segment(tmp_path, 2, 4, 4, seed=6)
    with pytest.raises(ProblemError, match="of another run: expected config"):
        segment(tmp_path, 2, 4, 4, lr=3e-3)


def test_a_missing_checkpoint_is_one_clear_error(small, tmp_path):
    with pytest.raises(StorageError, match="the checkpoint of step 2 is gone"):
        segment(tmp_path, 2, 4, 4)


def test_a_run_that_diverges_ends_at_the_next_report(small, tmp_path):
    # Reports of 40 steps are every 4th, validated every 8th: it ends before the first validation.
    with pytest.raises(DivergedError, match="val_loss is nan at step 4"):
        segment(tmp_path, 0, 40, 40, lr=1e30, warmup=0.0)


def test_the_schedule_is_replanned_for_the_promised_steps(small, tmp_path):
    segment(tmp_path / "short", 0, 2, 2, warmup=0.0, floor=0.0)
    segment(tmp_path / "long", 0, 2, 4, warmup=0.0, floor=0.0)
    # Cosine at the middle of step 3 of 4: (1 + cos(5 pi / 8)) / 2 = 0.30866; of step 3 of 2: the floor.
    (long,), (short,) = (
        {g["lr"] for g in saved(tmp_path / f, 2)["optimizer"]["param_groups"]} for f in ("long", "short")
    )
    assert long == pytest.approx(1e-3 * 0.30866, rel=1e-4)
    assert short == 0.0


@pytest.mark.parametrize("schedule", ["uba", "linear"])
def test_schedules_rise_over_the_warm_up_and_end_near_the_floor(schedule):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight], lr=1.0)
    plan = train.make_schedule(optimizer, train.Config(warmup=0.1, floor=0.1, schedule=schedule), 100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        plan.step()
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert all(a > b for a, b in pairwise(rates[9:]))
    # The middle of the last of 90 steps. Linear: 0.1 + 0.9 * 0.5 / 90 = 0.105; cosine: below that, over the floor.
    assert 0.1 < rates[-1] <= 0.105 + 1e-12
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


# The model


@pytest.mark.parametrize(("name", "total_m", "linear_m"), [("60M", 58.07, 25.30), ("130M", 134.11, 84.93)])
def test_parameter_counts_are_those_of_the_paper(name, total_m, linear_m):
    size = llama.SIZES[name]
    with torch.device("meta"):
        model = llama.Llama(size, size.vocab)
    projectable = param_groups(model, weight_decay=0.0)[0]["params"]
    linear = sum(p.numel() for p in projectable)
    total = sum(p.numel() for p in model.parameters())
    assert len(projectable) == 7 * size.layers
    assert round(linear / 1e6, 2) == linear_m
    assert round(total / 1e6, 2) == total_m
    h, f, layers = size.hidden, size.ffn, size.layers
    assert linear == layers * (4 * h * h + 3 * h * f)
    assert total - linear == 2 * 32_000 * h + (2 * layers + 1) * h


def test_a_later_token_does_not_move_earlier_logits():
    model = llama.build(SMALL, 97, 0, "cpu")
    with torch.no_grad():
        for parameter in model.parameters():  # as initialised, attention hardly matters
            parameter.mul_(10) if parameter.dim() == 2 else None
        tokens = torch.arange(13)[None] * 7 % 97
        changed = tokens.clone()
        changed[0, 5] = 96
        before, after = model(tokens), model(changed)
    assert torch.equal(before[0, :5], after[0, :5])
    assert ((before - after)[0, 5:].abs().amax(-1) > 1e-4).all()


def test_rotary_positions_see_distances_only():
    model = llama.build(replace(SMALL, sequence=31), 97, 0, "cpu")
    q, k = torch.randn(2, 1, 1, 1, 10, generator=torch.Generator().manual_seed(0)).unbind()
    rotated_q = llama.rotate(q.expand(1, 31, 1, 10), model.rotations)[0, :, 0]
    rotated_k = llama.rotate(k.expand(1, 31, 1, 10), model.rotations)[0, :, 0]
    scores = rotated_q @ rotated_k.T
    for distance in (0, 3, -7):
        along = scores.diagonal(distance)
        torch.testing.assert_close(along, along[0].expand_as(along), atol=1e-5, rtol=1e-5)
    # By hand, channels 0 and 1 turn by 1 radian a position: (1, 0) at position 2 is (cos 2, sin 2).
    one = torch.zeros(1, 3, 1, 10)
    one[..., 0] = 1
    turned = llama.rotate(one, model.rotations[:3])[0, 2, 0, :2]
    assert turned.tolist() == pytest.approx([math.cos(2), math.sin(2)], abs=1e-6)


def test_attention_knows_the_order_of_what_came_before():
    # Without positions, one layer's last logits would not change when earlier tokens trade places.
    model = llama.build(replace(SMALL, layers=1), 97, 0, "cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10) if parameter.dim() == 2 else None
        last = [model(torch.tensor([order]))[0, -1] for order in ([3, 5, 7], [5, 3, 7])]
    assert (last[0] - last[1]).abs().max() > 1e-3


def test_the_loss_is_that_of_each_next_token():
    model = llama.build(SMALL, 97, 0, "cpu")
    windows = torch.tensor([[2, 3, 5, 7], [11, 13, 17, 19]])
    with torch.no_grad():
        log_p = model(windows[:, :3]).log_softmax(-1)
        of_next = [log_p[row, t, windows[row, t + 1]].item() for row in range(2) for t in range(3)]
        assert model.loss(windows).item() == pytest.approx(-sum(of_next) / 6, abs=1e-6)


def test_rms_norm_matches_the_closed_form():
    # x = (3, 4): mean square 12.5, so x / sqrt(12.5 + 1e-6), times the weight.
    with torch.device("meta"):
        norms = [m for m in llama.Llama(SMALL, 97).modules() if isinstance(m, torch.nn.RMSNorm)]
    assert len(norms) == 2 * SMALL.layers + 1
    assert {norm.eps for norm in norms} == {1e-6}
    norm = torch.nn.RMSNorm(2, eps=norms[0].eps)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0]))
    expected = [3 / math.sqrt(12.5 + 1e-6), 2 * 4 / math.sqrt(12.5 + 1e-6)]
    assert norm(torch.tensor([3.0, 4.0])).tolist() == pytest.approx(expected, rel=1e-6)


def test_swiglu_matches_the_closed_form():
    mlp = llama.MLP(1, 1)
    with torch.no_grad():
        for layer, value in ((mlp.gate_proj, 2.0), (mlp.up_proj, 3.0), (mlp.down_proj, 5.0)):
            layer.weight.fill_(value)
    # silu(2) = 2 / (1 + e^-2) = 1.761594; 5 * 1.761594 * 3 = 26.42391
    assert mlp(torch.ones(1)).item() == pytest.approx(26.42391, abs=1e-4)


def test_the_initial_loss_is_close_to_the_logarithm_of_the_vocabulary():
    model = llama.build(llama.SIZES["mini"], 256, 0, "cpu")
    windows = torch.randint(0, 256, (7, 65), generator=torch.Generator().manual_seed(1))
    assert model.loss(windows).item() == pytest.approx(math.log(256), abs=0.03)


def test_under_bfloat16_autocast_the_loss_is_nearly_that_of_float32():
    model = llama.build(SMALL, 97, 0, "cpu")
    windows = torch.randint(0, 97, (7, 14), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10) if parameter.dim() == 2 else None
        full = model.loss(windows)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model.loss(windows)
    assert half.dtype == torch.float32
    assert half.item() != full.item()
    assert half.item() == pytest.approx(full.item(), rel=0.01)


def test_building_a_model_neither_reads_nor_moves_the_global_random_state():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    a = llama.build(SMALL, 97, 3, "cpu")
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    b, c = (llama.build(SMALL, 97, seed, "cpu") for seed in (3, 4))
    assert_same(dict(a.state_dict()), dict(b.state_dict()))
    assert not torch.equal(a.lm_head.weight, c.lm_head.weight)


def test_micro_batches_give_the_gradient_of_the_whole_batch(small, monkeypatch):
    gradients = []
    for micro_batch in (3, 6):
        monkeypatch.setitem(llama.SIZES, "mini", replace(SMALL, micro_batch=micro_batch))
        run = train.Run(train.Config(), 0, 4, "cpu")
        run.optimizer.step = run.optimizer.zero_grad = lambda **_: None
        run.schedule.step = lambda: None
        run.step(1)
        gradients.append([p.grad for p in run.model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


# The optimizer's state


@pytest.mark.parametrize(
    ("density", "share"),
    # The mini has 14 tensors in 2 equal layers; descending from the last: down, up, gate, o, v, k, q.
    [(0.0, []), (0.25, ["down", "up", "gate", "o"]), (0.5, ["down", "up", "gate", "o", "v", "k", "q"])],
)
def test_the_reported_state_bytes_are_the_formula(tmp_path, density, share):
    h, f, layers, vocab = 64, 176, 2, 256
    sizes = dict.fromkeys("qkvo", h * h) | dict.fromkeys(("gate", "up", "down"), h * f)
    regular = 2 * vocab * h + (2 * layers + 1) * h
    expected = 4 * 2 * (regular + sum(sizes[name] for name in share))
    reports = segment(tmp_path, 0, 1, 512, density=density)
    assert reports[-1]["metrics"]["state_bytes"] == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_papers_60m_trains_on_a_gpu_with_float32_weights_and_state(tmp_path, monkeypatch):
    size = llama.SIZES["60M"]
    monkeypatch.setitem(llama.SIZES, "60M", replace(size, batch=16, micro_batch=8, val_sequences=16))
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(0, 32_000, 100_000).astype(np.uint16))
    reports = []
    job = JobContext(
        params={"size": "60M", "data": str(tmp_path / "tokens.npy")},
        start=0,
        until=3,
        planned=3,
        seed=0,
        device="cuda",
        threads=1,
        checkpoint_dir=tmp_path / "run",
        objective="val_loss",
        sink=reports.append,
    )
    train.main(job)
    metrics = reports[-1]["metrics"]
    assert metrics["val_loss"] == pytest.approx(math.log(32_000), abs=0.5)
    # Descending, 14 of 56 tensors are the last two of eight equal layers: density 0.25 to the byte.
    h, f, layers = size.hidden, size.ffn, size.layers
    regular = 2 * 32_000 * h + (2 * layers + 1) * h
    assert metrics["state_bytes"] == 4 * 2 * (regular + layers * (4 * h * h + 3 * h * f) // 4)
    assert {t.dtype for t in saved(tmp_path / "run", 3)["model"].values()} == {torch.float32}


# The data


def test_the_standard_library_is_split_by_file_and_bounded():
    train_files, val_files = corpus.standard_library(1_000_000)
    assert len(set(train_files) | set(val_files)) == len(train_files) + len(val_files)
    sizes = [sum(p.stat().st_size for p in files) for files in (train_files, val_files)]
    largest = max(p.stat().st_size for p in train_files + val_files)
    assert 1_000_000 <= sum(sizes) < 1_000_000 + largest
    assert 100_000 <= sizes[1] < 100_000 + largest
    parts = {part for path in train_files + val_files for part in path.parts}
    assert not parts & {"site-packages", "test", "tests", "lib2to3"}
    assert (train_files, val_files) == corpus.standard_library(1_000_000)


def test_windows_of_one_step_depend_on_seed_and_step_alone(small):
    tokens = corpus.load_corpus("stdlib", "mini").train
    later_first = [corpus.training_batch(tokens, SMALL, 1, step) for step in (3, 2)]
    in_order = [corpus.training_batch(tokens, SMALL, 1, step) for step in (2, 3)]
    assert_same(later_first[::-1], in_order)
    assert not torch.equal(in_order[0], in_order[1])
    assert not torch.equal(in_order[0], corpus.training_batch(tokens, SMALL, 2, 2))
    assert in_order[0].shape == (6, 14)


def test_windows_never_leave_their_stretch():
    tokens = corpus.Tokens((np.arange(5, dtype=np.uint16), np.arange(10, 13, dtype=np.uint16)), 97)
    # 5 - 2 = 3 places in the first, 3 - 2 = 1 in the second
    assert tokens.places(3).tolist() == [3, 4]
    assert tokens.windows(np.arange(4), 3).tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [10, 11, 12]]


def test_validation_windows_are_always_the_same_and_reach_from_start_to_end(small):
    tokens = corpus.Tokens((np.arange(90, dtype=np.uint16),), 97)
    windows = corpus.validation_windows(tokens, SMALL)
    assert windows.shape == (11, 14)
    assert windows[0, 0] == 0
    # 90 - 13 = 77 places, 11 windows: one every 7
    assert windows[:, 0].tolist() == list(range(0, 77, 7))


def test_a_folder_of_text_is_bytes_split_by_file(small, tmp_path):
    for i in range(12):
        (tmp_path / f"part-{i:02}.txt").write_bytes(bytes([65 + i]) * 40)
    (tmp_path / ".hidden").write_bytes(b"!" * 40)
    found = corpus.load_corpus(str(tmp_path), "mini")
    letters = [set(np.unique(tokens.parts[0]).tolist()) - {0} for tokens in (found.train, found.val)]
    assert letters[1] == {65, 75}  # files 0 and 10, every tenth
    assert letters[0] == {65 + i for i in range(12)} - letters[1]
    assert found.train.vocab == found.val.vocab == 256
    by_glob = corpus.load_corpus(str(tmp_path / "part-*.txt"), "mini")
    assert np.array_equal(by_glob.train.parts[0], found.train.parts[0])


def test_token_files_named_for_validation_validate(small, tmp_path):
    np.save(tmp_path / "a.npy", np.arange(20, dtype=np.uint16))
    np.arange(20, 40, dtype=np.uint16).tofile(tmp_path / "interval.bin")
    np.arange(40, 60, dtype=np.uint16).tofile(tmp_path / "text_val.bin")
    found = corpus.load_corpus(str(tmp_path), "mini")
    assert [part.tolist() for part in found.train.parts] == [list(range(20)), list(range(20, 40))]
    assert [part.tolist() for part in found.val.parts] == [list(range(40, 60))]
    assert found.train.vocab == 97


def test_the_end_of_a_single_file_validates(small, tmp_path):
    np.save(tmp_path / "all.npy", np.arange(1000, dtype=np.uint16) % 97)
    found = corpus.load_corpus(str(tmp_path / "all.npy"), "mini")
    assert [len(found.train.parts[0]), len(found.val.parts[0])] == [950, 50]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no files there; expected 'stdlib', a folder or glob of text files"),
        (lambda folder: (folder / "a.txt").write_text("too short"), "expected over 13 tokens in a row to train on"),
        (lambda folder: np.save(folder / "a.npy", np.zeros(500)), "expected one row of uint16 tokens, got float64"),
        (lambda folder: (folder / "a.bin").write_bytes(b"odd"), "cannot read tokens from"),
        (
            lambda folder: [(folder / "a.txt").write_text("x" * 99), (folder / "b.bin").write_bytes(b"x" * 98)],
            "expected text files or token files",
        ),
    ],
    ids=["empty", "short", "float", "odd", "mixed"],
)
def test_data_that_cannot_be_used_is_one_clear_error(small, tmp_path, make, message):
    folder = tmp_path / "data"
    folder.mkdir()
    make(folder)
    with pytest.raises(ProblemError, match=message):
        segment(tmp_path / "run", 0, 2, 2, data=str(folder))


def test_a_token_outside_the_vocabulary_is_one_clear_error(small, tmp_path):
    np.save(tmp_path / "a.npy", np.full(500, 97, dtype=np.uint16))
    with pytest.raises(ProblemError, match="expected tokens below 97, the vocabulary of this size, got 97"):
        segment(tmp_path / "run", 0, 2, 2, data=str(tmp_path / "a.npy"))


# The problem and the script


@pytest.mark.parametrize("size", ["mini", "60M", "130M"])
def test_the_problem_and_its_job_fit_together(size):
    problem = load_problem(FOLDER, {"size": size})
    assert isinstance(problem, Problem)
    problem.space.check(problem.defaults)
    config = train.Config.from_params(problem.defaults)
    assert (config.size, config.data) == (size, "stdlib")
    assert problem.steps == llama.SIZES[size].steps
    assert problem.fidelity.schedule == "replanned"
    assert Problem.from_json(problem.to_json()).to_json() == problem.to_json()
    module, function = problem.job.split(":")
    assert (Path(problem.root) / module).is_file()
    assert callable(getattr(train, function))


problem_module = load("tiny_llama_problem_under_test", FOLDER / "problem.py")


def test_problem_and_job_know_the_same_sizes():
    shapes = {name: (scale.hidden, scale.ffn, scale.layers) for name, scale in problem_module.SCALES.items()}
    assert shapes == {name: (size.hidden, size.ffn, size.layers) for name, size in llama.SIZES.items()}
    defaults = problem_module.problem().defaults
    assert defaults == {f.name: f.default for f in fields(train.Config) if f.name in defaults}


@pytest.mark.parametrize("size", ["mini", "60M", "130M"])
def test_the_formula_of_the_state_is_what_the_optimizer_allocates_at_its_peak(size):
    shape = llama.SIZES[size]
    tensors = 7 * shape.layers
    formula = Expression(problem_module.state_bytes(size), ["density"])
    with torch.device("meta"):
        model = llama.Llama(shape, 256)
    for k in range(tensors + 1):
        config = train.Config(size=size, density=k / tensors)
        predicted = predict_state_bytes(train.make_optimizer(model, config, 0)).total
        assert formula({"density": config.density}) == predicted
        for density in (k - 0.49) / tensors, (k + 0.49) / tensors:
            assert not 0 <= density <= 1 or formula({"density": density}) == predicted


def test_no_trial_has_more_state_than_its_limit(tmp_path):
    # 8 (2 * 256 * 64 + 5 * 64) = 264,704 without any linear weight, and 90,112 for each of up to three of 64 x 176.
    problem = load_problem(FOLDER, {"state_limit": 450_000})
    assert problem.defaults["density"] == pytest.approx(2 / 14)
    assert load_problem(FOLDER, {"state_limit": 568_000}).defaults["density"] == 0.25  # three, and one of 64 x 64
    rng = np.random.default_rng(0)
    drawn = [problem.space.sample(rng)["density"] for _ in range(97)]
    assert 0.15 < max(drawn) < 2.5 / 14
    assert not problem.space.is_feasible({**problem.defaults, "density": 2.6 / 14})
    reports = segment(tmp_path, 0, 7, 7, density=max(drawn), update_gap=1)
    assert 400_000 < max(r["metrics"]["state_bytes"] for r in reports) <= 450_000
    with pytest.raises(ProblemError, match="at least 264,704 bytes for mini, got 264703"):
        load_problem(FOLDER, {"state_limit": 264_703})


def test_the_problem_does_not_import_torch():
    code = (
        "import sys; from frugalbo.problem import load_problem; "
        f"load_problem({str(FOLDER)!r}); print('torch' in sys.modules)"
    )
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": "7B"}, "expected size to be one of mini, 60M, 130M, got '7B'"),
        ({"data": "/no/such/place"}, "data '/no/such/place': there is no such file or folder"),
        ({"steps": 0}, "whole steps 1 <= low <= high"),
    ],
)
def test_wrong_settings_are_one_clear_error(settings, message):
    with pytest.raises(ProblemError, match=message):
        load_problem(FOLDER, settings)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"learning_rate": 1.0}, "unknown parameter 'learning_rate'; known are lr, density"),
        ({"schedule": "cosine"}, "expected schedule to be one of uba, linear, got 'cosine'"),
        ({"size": "7B"}, "expected size to be one of mini, 60M, 130M, got '7B'"),
    ],
)
def test_wrong_parameters_are_one_clear_error(params, message):
    with pytest.raises(ProblemError, match=message):
        train.Config.from_params(params)


def test_baselines_are_the_optimizers_they_claim_to_be():
    model = llama.build(SMALL, 97, 0, "cpu")
    adamw = train.make_optimizer(model, train.Config(optimizer="adamw", weight_decay=0.1), 0)
    assert type(adamw) is torch.optim.AdamW
    frugal = train.make_optimizer(model, train.Config(weight_decay=0.1, density=0.3, update_gap=7), 0)
    assert type(frugal) is Frugal
    linear = frugal.param_groups[0]
    assert (linear["projectable"], linear["density"], linear["update_gap"]) == (True, 0.3, 7)
    scaled = train.make_optimizer(model, train.Config(optimizer="adamw", lr=1e-2, projectable_lr_scale=0.3), 0)
    assert [g["lr"] for g in scaled.param_groups] == pytest.approx([3e-3, 1e-2, 1e-2])
    for optimizer in (adamw, frugal):
        decay = {g["weight_decay"]: {p.dim() for p in g["params"]} for g in optimizer.param_groups}
        assert decay == {0.1: {2}, 0.0: {1}}


@pytest.mark.slow
def test_the_script_runs_by_itself_and_refuses_in_one_line():
    def script(*words):
        words = [sys.executable, FOLDER / "train.py", "--threads", "1", "--device", "cpu", *words]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    done = script("--lr", "3e-3", "--steps", "2", "--no-reset-state")
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["step"] == 2
    assert 5 < last["metrics"]["val_loss"] < 5.7
    wrong = script("--data", "/no/such/place")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: data '/no/such/place': no files there")
    assert len(wrong.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_full_miniature_learns_more_than_which_bytes_are_frequent(tmp_path):
    problem = load_problem(FOLDER)
    reports = segment(tmp_path, 0, problem.steps, problem.steps, **problem.defaults)
    text = corpus.load_corpus("stdlib", "mini").val.parts[0]
    share = np.bincount(text, minlength=256) / len(text)
    unigram = -(share[share > 0] * np.log(share[share > 0])).sum()
    # Knowing the frequency of every byte is worth `unigram` (3.3 nats); knowing pairs too, 2.4.
    assert reports[-1]["metrics"]["val_loss"] < 0.8 * unigram
    assert all(math.isfinite(value) for r in reports for value in r["metrics"].values())
    assert reports[-1]["metrics"]["tokens_per_s"] > 0
    assert reports[-1]["metrics"]["peak_memory_bytes"] > 1e7
