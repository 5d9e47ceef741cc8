import importlib.util
import json
import math
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalbo.errors import BudgetError, ProblemError
from frugalbo.job import DivergedError, JobContext
from frugalbo.problem import Problem, load_problem
from frugalbo.rollouts import group_advantages

FOLDER = Path(__file__).resolve().parents[2] / "problems" / "knapsack_grpo"


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


train = load("knapsack_grpo_train_under_test", FOLDER / "train.py")
arithmetic, transformer, warm_start, policy_gradient = (
    sys.modules[name] for name in ("arithmetic", "transformer", "warm_start", "policy_gradient")
)
Exercise = arithmetic.Exercise

SMALL = warm_start.Size(
    warm_start.Warm(max_digits=2, hidden=12, layers=2, heads=3, steps=5, batch=7, lr=1e-2, slips=0.1),
    prompts=23,
    held_out=17,
    samples=2,
    tokens=331,
    updates=6,
    micro_batch=11,  # several parts a step
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def small(monkeypatch, cache):
    """A policy that has learned next to nothing, with a task that it can learn: to begin with a digit below 5."""
    monkeypatch.setitem(warm_start.SIZES, "mini", SMALL)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(train, "is_right", lambda exercise, text: text[:1] in set("01234"))


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
        objective="pass_at_1",
        sink=reports.append,
        stop_requested=stop,
    )
    train.main(job)
    return reports


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


def weights_of(run):
    return {name: p.detach().clone() for name, p in run.model.named_parameters()}


# The tasks and the verifier


@pytest.mark.parametrize(
    ("exercise", "prompt", "response"),
    [
        (Exercise(385, "+", 47, 3), "385+047=", "121304>0432."),
        (Exercise(385, "-", 47, 3), "385-047=", "081313>0338."),
        (Exercise(385, "*", 7, 3), "385*7=", "355926>2695."),
        (Exercise(9, "+", 8, 1), "9+8=", "17>17."),
    ],
)
def test_the_working_is_that_of_the_columns(exercise, prompt, response):
    assert (exercise.prompt, exercise.response) == (prompt, response)


exercises = st.builds(
    lambda operation, digits, seed: arithmetic.draw(np.random.default_rng(seed), operation, digits, held_out=False),
    st.sampled_from("+-*"),
    st.integers(1, 12),
    st.integers(0, 10**6),
)


@given(exercises, st.integers(1, 9))
def test_the_right_response_is_right_and_no_other_number_is(exercise, other):
    response = exercise.response
    assert len(response) == exercise.limit
    assert arithmetic.is_right(exercise, response)
    assert len(exercise.prompt) <= arithmetic.prompt_width(exercise.digits)
    shown = response[-2 - exercise.digits : -1]
    wrong = str((int(shown[-1]) + other) % 10)
    assert not arithmetic.is_right(exercise, response[:-2] + wrong + ".")
    # The working does not count, leading zeros neither, what follows the end neither.
    assert arithmetic.is_right(exercise, f"99>{exercise.result}.17>3.")


@pytest.mark.parametrize(
    "response", ["", ".", "12", "12>12", "12.", "12>.", "12>1 2.", "12>-12.", "12>12>.", "12.>12."]
)
def test_what_has_no_answer_is_wrong(response):
    assert not arithmetic.is_right(Exercise(5, "+", 7, 1), response)


def test_the_last_number_is_the_answer():
    assert arithmetic.is_right(Exercise(5, "+", 7, 1), "12>11>12.")
    assert not arithmetic.is_right(Exercise(5, "+", 7, 1), "12>12>11.")


def test_no_exercise_is_both_learned_from_and_held_out():
    mine, held_out = (arithmetic.data_set(300, 3, 0, held_out=held) for held in (False, True))
    assert not {e.prompt for e in mine} & {e.prompt for e in held_out}
    assert mine == arithmetic.data_set(300, 3, 0, held_out=False)
    of_kind = [sum((e.operation, e.digits) == kind for e in mine) for kind in arithmetic.kinds(3)]
    assert set(of_kind) == {33, 34}  # 300 of nine kinds


def test_prompts_end_at_one_place_and_tokens_are_read_back():
    texts = ["385+047=", "9*8="]
    tokens = arithmetic.encode(texts, 11)
    assert (tokens[:, -1] == arithmetic.ALPHABET.index("=")).all()
    assert arithmetic.decode(tokens) == ["   385+047=", "       9*8="]
    assert arithmetic.decode(arithmetic.encode(["17>"], 5, right=True)) == ["17>  "]


# The model and its generation

SHAPE = transformer.Shape(hidden=14, layers=2, heads=2, length=19, vocab=17)


def model_of(scale=3.0):
    model = transformer.build(SHAPE, 0, "cpu").double()
    with torch.no_grad():
        for parameter in model.parameters():  # as initialised, it hardly knows what it has read
            parameter.mul_(scale) if parameter.dim() == 2 else None
    return model


def naive(model, prompts, limits, temperature, end, stream):
    """Generation without a cache: the whole sequence again for each token, one row after the other."""
    longest = int(limits.max())
    uniform = torch.rand(longest, len(prompts), generator=stream)
    rows = []
    for row, (prompt, limit) in enumerate(zip(prompts, limits.tolist(), strict=True)):
        tokens = prompt.tolist()
        for i in range(limit):
            with torch.no_grad():
                logits = model(torch.tensor([tokens]))[0, -1]
            if temperature == 0:
                token = int(logits.argmax())
            else:
                sums = (logits.float() / temperature).softmax(-1).cumsum(-1)
                token = int((sums <= uniform[i, row] * sums[-1]).sum())
            tokens.append(token)
            if token == end:
                break
        response = tokens[len(prompt) :]
        rows.append(response + [end] * (longest - len(response)))
    return torch.tensor(rows)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.3])
def test_generation_with_a_cache_is_generation_without(temperature):
    model = model_of(1.5)
    prompts = torch.randint(0, 17, (23, 8), generator=torch.Generator().manual_seed(1))
    limits = torch.arange(23) % 11 + 1
    found, expected = (
        of(model, prompts, limits, temperature, 16, torch.Generator().manual_seed(2))
        for of in (transformer.generate, naive)
    )
    assert torch.equal(found, expected)
    took = transformer.lengths(found, limits, 16)
    assert (took <= limits).all()
    assert len({tuple(row) for row in found.tolist()}) > 5  # rows differ


def test_the_length_of_a_response_is_up_to_its_end_or_its_limit():
    responses = torch.tensor([[3, 9, 9], [3, 4, 9], [3, 4, 5], [9, 9, 9]])
    assert transformer.lengths(responses, torch.tensor([3, 3, 3, 3]), 9).tolist() == [2, 3, 3, 1]
    assert transformer.lengths(responses, torch.tensor([1, 2, 2, 1]), 9).tolist() == [1, 2, 2, 1]


def test_first_tokens_are_as_frequent_as_they_are_likely():
    model = model_of()
    prompts = torch.tensor([[3, 5, 7, 11]]).expand(20_000, 4)
    found = transformer.generate(
        model, prompts, torch.ones(20_000, dtype=torch.int64), 1.7, 16, torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        p = (model(prompts[:1])[0, -1] / 1.7).softmax(-1)
    share = torch.bincount(found[:, 0], minlength=17) / 20_000
    sd = (p * (1 - p) / 20_000).sqrt()
    assert p.max() < 0.9
    # 17 shares: a deviation of five is as likely as 1e-5.
    assert ((share - p).abs() < 5 * sd + 1e-9).all()


def test_a_later_token_does_not_move_earlier_logits():
    model = model_of()
    tokens = torch.arange(13)[None] * 7 % 17
    changed = tokens.clone()
    changed[0, 5] = 16
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    assert torch.equal(before[0, :5], after[0, :5])
    assert ((before - after)[0, 5:].abs().amax(-1) > 1e-6).all()


def test_under_bfloat16_autocast_it_generates_and_its_probabilities_are_nearly_those_of_float32():
    model = model_of(1.5).float()
    prompts = torch.randint(0, 17, (5, 8), generator=torch.Generator().manual_seed(1))
    full = policy_gradient.log_probs(model, prompts, prompts, 1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = policy_gradient.log_probs(model, prompts, prompts, 1.0)
        found = transformer.generate(model, prompts, torch.full((5,), 7), 1.0, 16, torch.Generator().manual_seed(0))
    assert found.shape == (5, 7)
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)
    torch.testing.assert_close(half, full, atol=0.2, rtol=0.05)


def test_building_a_model_neither_reads_nor_moves_the_global_random_state():
    before = torch.random.get_rng_state()
    a, b = (transformer.build(SHAPE, 3, "cpu") for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert_same(dict(a.state_dict()), dict(b.state_dict()))


def test_the_gpu_size_has_room_for_its_exercises():
    warm = warm_start.SIZES["85M"].warm
    with torch.device("meta"):
        model = transformer.Transformer(warm.shape)
        longest = torch.zeros(2, arithmetic.prompt_width(12) + 3 * 12 + 3, dtype=torch.int64)
        logits = model(longest)
    assert logits.shape == (2, 26 + 39, len(arithmetic.ALPHABET))
    h = 768
    embeddings = (2 * 17 + 65) * h  # tokens in, tokens out, positions
    assert sum(p.numel() for p in model.parameters()) == 12 * (12 * h * h + 2 * h) + embeddings + h


# The loss


def test_the_gradient_of_two_responses_matches_the_closed_form():
    # One token each, of two that are equally likely; the first is right. Advantages: +-0.5 / sqrt(0.5) = +-0.70711.
    # d log p(a) / d z_a = 0.5, d log p(b) / d z_a = -0.5, each response weighs 1/2, so
    # d loss / d z_a = -(0.5 * 0.70711 * 0.5 + 0.5 * 0.70711 * 0.5) = -0.35355, and for z_b the opposite.
    z = torch.zeros(2, requires_grad=True)
    new = z.log_softmax(-1)[[0, 1], None]
    advantages = torch.from_numpy(group_advantages([7, 7], [1, 0])).float()
    weights = policy_gradient.response_weights(torch.tensor([7, 7]), torch.tensor([1, 1]), "tokens")
    loss = policy_gradient.grpo_loss(new, new.detach(), advantages, weights, torch.ones(2, 1, dtype=torch.bool))
    loss.backward()
    assert z.grad.tolist() == pytest.approx([-0.35355, 0.35355], abs=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [
        (1.5, 1.0, -1.28, 0.0),  # cut at 1 + 0.28
        (1.2, 1.0, -1.2, -1.2),  # d r / d log p = r
        (0.5, 1.0, -0.5, -0.5),  # a good response that has become rare is not cut
        (0.5, -1.0, 0.8, 0.0),  # cut at 1 - 0.2
        (1.5, -1.0, 1.5, 1.5),
    ],
)
def test_the_ratio_is_clipped_where_it_has_gone_the_right_way_far_enough(ratio, advantage, value, slope):
    new = torch.full((1, 1), math.log(ratio), requires_grad=True)
    one = torch.ones(1)
    loss = policy_gradient.grpo_loss(new, torch.zeros(1, 1), advantage * one, one, torch.ones(1, 1, dtype=torch.bool))
    loss.backward()
    assert loss.item() == pytest.approx(value, abs=1e-6)
    assert new.grad.item() == pytest.approx(slope, abs=1e-6)


def test_the_divergence_term_matches_the_closed_form():
    # pi = 0.5, pi_ref = 0.25: k3 = 0.5 - log 0.5 - 1 = 0.193147; its slope in log pi: -(0.5 - 1) = 0.5.
    new = torch.full((1, 1), math.log(0.5), requires_grad=True)
    loss = policy_gradient.grpo_loss(
        new,
        new.detach(),
        torch.zeros(1),
        torch.ones(1),
        torch.ones(1, 1, dtype=torch.bool),
        reference=torch.full((1, 1), math.log(0.25)),
        kl=0.1,
    )
    loss.backward()
    assert loss.item() == pytest.approx(0.0193147, abs=1e-6)
    assert new.grad.item() == pytest.approx(0.05, abs=1e-6)


def test_tokens_outside_a_response_do_not_count():
    new = torch.zeros(2, 3, requires_grad=True)
    mask = torch.tensor([[True, False, False], [True, True, True]])
    loss = policy_gradient.grpo_loss(new, new.detach(), torch.tensor([2.0, -1.0]), torch.ones(2), mask)
    loss.backward()
    assert new.grad.tolist() == [[-2, 0, 0], [1, 1, 1]]


def test_weights_by_hand():
    groups, took = torch.tensor([4, 4, 9]), torch.tensor([2, 3, 5])
    assert policy_gradient.response_weights(groups, took, "tokens").tolist() == pytest.approx([0.1] * 3)
    # Two groups; of two and of one response.
    of_groups = policy_gradient.response_weights(groups, took, "groups").tolist()
    assert of_groups == pytest.approx([1 / (2 * 2 * 2), 1 / (2 * 2 * 3), 1 / (2 * 1 * 5)])


def test_probabilities_are_those_at_the_temperature():
    model = model_of()
    prompts, responses = torch.tensor([[3, 5, 7]]), torch.tensor([[11, 13]])
    with torch.no_grad():
        found = policy_gradient.log_probs(model, prompts, responses, 0.7)
        logits = model(torch.tensor([[3, 5, 7, 11]]))[0, 2:] / 0.7
    assert found[0].tolist() == pytest.approx(logits.log_softmax(-1)[[0, 1], [11, 13]].tolist(), rel=1e-5)


def test_advantages_by_the_mean_alone():
    # 1, 0, 0, 0: mean 0.25. Not over the standard deviation.
    assert group_advantages([3] * 4, [1, 0, 0, 0], by_std=False).tolist() == [0.75, -0.25, -0.25, -0.25]
    # Rewards of any size: the same formula.
    assert group_advantages([3, 3], [5.5, 2.5], by_std=False).tolist() == [1.5, -1.5]


# A step


def made(run, counts, rewards):
    """Rollouts of the first prompts, with these rewards."""
    counts = np.array(counts)
    ids = np.repeat(np.arange(counts.size), counts)
    tokens, took = train.respond(
        run.model, [run.exercises[i] for i in ids], run.width, 1.0, torch.Generator().manual_seed(3), "cpu"
    )
    return train.Rollouts(np.arange(counts.size), counts, np.array(rewards, dtype=float), took, tokens)


@pytest.mark.parametrize(
    ("counts", "rewards"), [([3, 2], [1, 1, 1, 0, 0]), ([1, 1], [1, 0])], ids=["all equal", "groups of one"]
)
@pytest.mark.parametrize("group_batch", [1, 5])
def test_without_differences_in_a_group_nothing_is_learned(small, counts, rewards, group_batch):
    run = train.Run(train.Config(lr=1e-2, group_batch=group_batch), 0, 4, "cpu")
    run.learn(made(run, [2, 3], [1, 0, 0, 0, 1]))  # there are moments, which must not move the weights by themselves
    before = weights_of(run)
    rollouts = made(run, counts, rewards)
    assert rollouts.effective == 0
    run.learn(rollouts)
    assert_same(weights_of(run), before)


def test_what_has_no_advantage_is_still_held_to_the_reference(small):
    run = train.Run(train.Config(lr=1e-2, lower=1, kl=0.1), 0, 4, "cpu")
    run.learn(made(run, [2, 3], [1, 0, 0, 0, 1]))  # away from the reference
    before = weights_of(run)
    run.learn(made(run, [3, 2], [1, 1, 1, 0, 0]))
    assert any(not torch.equal(a, b) for a, b in zip(before.values(), weights_of(run).values(), strict=True))


@pytest.mark.parametrize("loss", ["tokens", "groups"])
@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_a_step_is_the_gradient_of_the_whole_batch(small, monkeypatch, loss, kl):
    # The run leaves out responses without an advantage and goes part by part; here nothing is left out.
    run = train.Run(train.Config(loss=loss, kl=kl, temperature=0.8), 0, 4, "cpu")
    rollouts = made(run, [5, 4, 6], [1, 0, 0, 0, 1] + [0] * 4 + [1, 1, 1, 1, 1, 0])
    kept = []
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: None)
    monkeypatch.setattr(run.optimizer, "step", lambda: kept.extend(p.grad.clone() for p in run.model.parameters()))
    run.learn(rollouts)
    prompts = arithmetic.encode([run.exercises[i].prompt for i in rollouts.ids], run.width)
    new = policy_gradient.log_probs(run.model, prompts, rollouts.tokens, 0.8)
    took = rollouts.lengths
    policy_gradient.grpo_loss(
        new,
        new.detach(),
        torch.from_numpy(group_advantages(rollouts.ids, rollouts.rewards)).float(),
        policy_gradient.response_weights(torch.from_numpy(rollouts.ids), took, loss),
        torch.arange(rollouts.tokens.shape[1]) < took[:, None],
        reference=new.detach(),  # the policy is still the reference
        kl=kl,
    ).backward()
    for a, b in zip(kept, run.model.parameters(), strict=True):
        torch.testing.assert_close(a, b.grad, atol=1e-6, rtol=1e-4)


def test_the_second_batch_of_an_update_has_the_ratio_to_the_policy_that_sampled(small, monkeypatch):
    run = train.Run(train.Config(lr=1e-2, group_batch=1), 0, 4, "cpu")
    seen = []
    loss = train.grpo_loss
    monkeypatch.setattr(
        train, "grpo_loss", lambda new, old, *a, **k: seen.append((new.detach(), old)) or loss(new, old, *a, **k)
    )
    run.learn(made(run, [2, 3], [1, 0, 0, 0, 1]))
    (first, first_old), (second, second_old) = seen
    torch.testing.assert_close(first, first_old[:, : first.shape[1]], atol=1e-5, rtol=1e-5)
    assert (second - second_old).abs().max() > 1e-3


def test_the_effective_ratio_counts_rollouts_of_mixed_groups(small):
    run = train.Run(train.Config(), 0, 4, "cpu")
    assert made(run, [2, 3, 1], [1, 0, 0, 0, 0, 1]).effective == 2
    assert made(run, [2, 3, 1], [1, 0, 0, 1, 0, 1]).effective == 5


def test_a_reward_that_is_neither_0_nor_1_is_refused(small, monkeypatch):
    run = train.Run(train.Config(), 0, 4, "cpu")
    monkeypatch.setattr(train, "is_right", lambda exercise, text: 0.5)
    with pytest.raises(BudgetError, match=r"expected rewards of 0 or 1 \(or -1\), got 0.5"):
        run.update(1)


# Tokens


@pytest.mark.parametrize("rule", ["uniform", "filtering", "knapsack", "posterior", "signal"])
def test_the_budget_of_tokens_is_never_exceeded_and_hardly_left(small, rule):
    run = train.Run(train.Config(allocation=rule, rollouts=4, lower=1, lr=1e-2), 1, 13, "cpu")
    limits = []
    for update in range(1, 14):
        before = run.spent
        rollouts = run.update(update)
        limits.append(int(rollouts.counts @ run.limits[rollouts.prompts]))
        assert run.spent - before == int(rollouts.lengths.sum()) <= limits[-1] <= update * SMALL.tokens - before
        assert rollouts.counts.min() >= 1
    # A batch ends before the first prompt that does not fit (4 responses of at most 9 tokens), or with the epoch.
    assert run.spent >= 12 * SMALL.tokens


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(3, 39)), min_size=1, max_size=13),
    st.floats(0, 1),
)
def test_trimming_keeps_to_the_tokens_and_takes_no_more_than_it_must(pairs, share):
    counts, limits = (np.array(column) for column in zip(*pairs, strict=True))
    tokens = int(limits.sum() + share * (counts @ limits - limits.sum()))  # one for each fits
    found = train.trimmed(counts, limits, tokens)
    assert found @ limits <= tokens
    assert ((found >= 1) & (found <= counts)).all()
    if (found < counts).any():
        assert found @ limits + limits[found < counts].max() > tokens
    else:
        assert counts @ limits <= tokens


def test_an_epoch_visits_every_prompt_once(small):
    run = train.Run(train.Config(rollouts=4), 1, 9, "cpu")
    visited = np.concatenate([run.next_prompts(80) for _ in range(9)])
    assert sorted(visited[:23]) == list(range(23))
    assert visited[:23].tolist() != sorted(visited[:23])
    assert (visited[:23] != visited[23:46]).any()


# Segments and checkpoints


@pytest.mark.parametrize(
    "params",
    [
        {"allocation": "knapsack", "rollouts": 4, "update_gap": 3, "group_batch": 4},
        {"allocation": "posterior", "rollouts": 5, "kl": 0.01, "temperature": 1.2},
        {"optimizer": "adamw", "advantage": "mean", "loss": "groups"},
    ],
    ids=["knapsack", "posterior", "adamw"],
)
def test_three_updates_pause_three_updates_are_six_updates(small, tmp_path, params):
    params |= {"lr": 1e-2, "weight_decay": 0.1}
    straight = segment(tmp_path / "straight", 0, 6, 6, **params)
    first = segment(tmp_path / "paused", 0, 3, 6, **params)
    second = segment(tmp_path / "paused", 3, 6, 6, **params)
    a, b = (torch.load(tmp_path / f / "step-6.ckpt", weights_only=True) for f in ("straight", "paused"))
    assert_same(a, b)
    names = ("train_reward", "effective_ratio", "tokens")
    timeless = [[(r["step"], *(r["metrics"][n] for n in names)) for r in found] for found in (straight, first + second)]
    assert timeless[0] == timeless[1]
    assert straight[-1]["metrics"]["pass_at_1"] == second[-1]["metrics"]["pass_at_1"]
    responses = SMALL.held_out * SMALL.samples
    expected = train.standard_error(straight[-1]["metrics"]["pass_at_1"], responses)
    assert straight[-1]["metrics"]["pass_at_1_sem"] == expected
    begin = warm_start.warm_start(SMALL.warm, "cpu")
    assert any(not torch.equal(a["model"][name], begin[name]) for name in begin)


def test_a_job_that_is_asked_to_stop_leaves_a_checkpoint_after_the_update_it_is_in(small, tmp_path):
    assert segment(tmp_path, 0, 40, 40, stop=True) == []
    assert [p.name for p in tmp_path.iterdir()] == ["step-1.ckpt"]


def test_a_checkpoint_of_another_run_is_refused(small, tmp_path):
    segment(tmp_path, 0, 2, 4)
    with pytest.raises(ProblemError, match="expected planned 6, got 4"):
        segment(tmp_path, 2, 6, 6)
    with pytest.raises(ProblemError, match="of another run: expected config"):
        segment(tmp_path, 2, 4, 4, lr=3e-3)


def test_pass_at_1_comes_with_its_standard_error():
    # 700 of 1,800: p = 701 / 1802 = 0.38901, sqrt(p (1 - p) / 1800) = 0.011491; and of none it is not 0.
    assert train.standard_error(700 / 1800, 1800) == pytest.approx(0.011491, abs=1e-6)
    assert train.standard_error(0.0, 1800) == pytest.approx(math.sqrt(1 / 1802 / 1800), rel=1e-3)
    assert math.isnan(train.standard_error(math.nan, 1800))
    assert load_problem(FOLDER).objective.sem == "pass_at_1_sem"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_run_that_diverges_ends_at_the_next_report(small, tmp_path, monkeypatch):
    def broken(new, old, *_, **__):
        return (new * math.inf).sum()

    monkeypatch.setattr(train, "grpo_loss", broken)
    with pytest.raises(DivergedError, match="pass_at_1 is nan"):
        segment(tmp_path, 0, 1, 10)


def test_runs_of_one_seed_are_equal_and_of_two_seeds_differ(small):
    a, b, c = (train.Run(train.Config(), seed, 4, "cpu").update(1) for seed in (1, 1, 2))
    assert torch.equal(a.tokens, b.tokens)
    assert a.prompts.tolist() != c.prompts.tolist()


# The warm start


def test_a_warm_start_is_made_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    teach, taught = warm_start.teach, []
    monkeypatch.setattr(warm_start, "teach", lambda *a: taught.append(a) or teach(*a))
    first, second = (warm_start.warm_start(SMALL.warm, "cpu") for _ in range(2))
    assert_same(dict(first), dict(second))
    assert len(taught) == 1
    warm_start.warm_start(replace(SMALL.warm, steps=6), "cpu")
    assert len(taught) == 2
    assert {path.suffix for path in warm_start.cache_folder().iterdir()} == {".pt", ".lock"}


def test_slips_change_digits_only_and_as_often_as_said():
    responses = arithmetic.encode(["121304>0432."] * 5000, 14, right=True)
    slipped = warm_start.with_slips(responses, 0.2, np.random.default_rng(0))
    changed = slipped != responses
    assert not changed[:, [6, 11, 12, 13]].any()  # >, the end and what is behind it
    # A tenth of the slips draws the digit that was there: 0.18; 50,000 digits, so one sd is 0.0017.
    assert changed[:, :6].float().mean().item() == pytest.approx(0.18, abs=0.01)
    assert all(text[6] == ">" and text[:6].isdigit() for text in arithmetic.decode(slipped[:50]))


@pytest.mark.slow
def test_the_toy_learns_from_its_own_successes(tmp_path):
    reports = segment(tmp_path, 0, 24, 24, size="toy", lr=1e-3, allocation="knapsack", seed=0)
    rewards = [r["metrics"]["train_reward"] for r in reports]
    ratio = [r["metrics"]["effective_ratio"] for r in reports]
    # From a quarter to over a third of the exercises it learns from; a uniform start, then the knapsack.
    assert 0.1 < rewards[0] < 0.4
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.05
    assert np.mean(ratio[-3:]) > np.mean(ratio[:2]) + 0.1


# The problem and the script


@pytest.mark.parametrize("size", ["toy", "mini", "85M"])
def test_the_problem_and_its_job_fit_together(size):
    problem = load_problem(FOLDER, {"size": size})
    assert isinstance(problem, Problem)
    problem.space.check(problem.defaults)
    config = train.Config.from_params(problem.defaults)
    assert {**asdict(config), **problem.defaults} == asdict(train.Config(size=size))
    assert problem.steps == warm_start.SIZES[size].updates
    assert problem.fidelity.schedule == "replanned"
    assert Problem.from_json(problem.to_json()).to_json() == problem.to_json()
    module, function = problem.job.split(":")
    assert (Path(problem.root) / module).is_file()
    assert callable(getattr(train, function))


@given(st.integers(0, 10**6), st.sampled_from(["toy", "mini", "85M"]))
@settings(max_examples=50)
def test_every_point_of_the_space_is_a_run(seed, size):
    space = load_problem(FOLDER, {"size": size}).space
    params = space.decode(np.random.default_rng(seed).random(space.dim))
    assert train.Config.from_params(params).size == size
    assert ("lower" in params) == (params["allocation"] != "uniform")


def test_the_rules_of_problem_job_and_package_are_the_same():
    space = load_problem(FOLDER).space
    allowed = next(f for f in fields(train.Config) if f.name == "allocation").type.__args__
    assert tuple(space.parameters["allocation"].values) == allowed


def test_the_problem_does_not_import_torch():
    code = (
        "import sys; from frugalbo.problem import load_problem; "
        f"load_problem({str(FOLDER)!r}); print('torch' in sys.modules)"
    )
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"learning_rate": 1.0}, "unknown parameter 'learning_rate'; known are lr, density"),
        ({"allocation": "greedy"}, "expected allocation to be one of uniform, filtering, knapsack, posterior, signal"),
        ({"size": "7B"}, "expected size to be one of toy, mini, 85M, got '7B'"),
        ({"lower": 9}, "expected 1 <= lower <= rollouts <= upper, got 9, 8 and 64"),
        ({"temperature": 0.0}, "expected a temperature above 0"),
        ({"rollouts": 400, "upper": 400}, "expected at most 341 rollouts, as an update has 6144 tokens"),
    ],
)
def test_wrong_parameters_are_one_clear_error(params, message):
    with pytest.raises(ProblemError, match=message):
        train.Config.from_params(params)


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [({"size": "7B"}, "expected size to be one of toy, mini, 85M"), ({"updates": 0}, "whole steps 1 <= low <= high")],
)
def test_wrong_settings_are_one_clear_error(given_settings, message):
    with pytest.raises(ProblemError, match=message):
        load_problem(FOLDER, given_settings)


@pytest.mark.slow
def test_the_script_runs_by_itself_and_refuses_in_one_line():
    def script(*words):
        words = [sys.executable, FOLDER / "train.py", "--threads", "1", "--device", "cpu", "--size", "toy", *words]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    done = script("--steps", "2", "--allocation", "signal")
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["step"] == 2
    assert 0 < last["metrics"]["tokens"] <= 2 * warm_start.SIZES["toy"].tokens
    begin = script("--steps", "0")
    assert 0 < json.loads(begin.stdout)["metrics"]["pass_at_1"] < 0.5
    wrong = script("--lower", "9")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: expected 1 <= lower")
