import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frugalbo.errors import BudgetError
from frugalbo.rollouts import RULES, RolloutAllocator, RolloutSampler, group_advantages

PROMPTS = 31


def batch(rng, allocator, rates, m=7, budget=53):
    """One step of a loop; returns what was allocated."""
    ids = rng.choice(PROMPTS, m, replace=False)
    n = allocator.allocate(ids, budget)
    rolled = np.repeat(ids, n)
    allocator.update(rolled, rng.random(rolled.size) < rates[rolled])
    return ids, n


@pytest.mark.parametrize("rule", RULES)
def test_the_first_batch_is_uniform_and_all_keep_the_budget(rule):
    rng = np.random.default_rng(5)
    allocator = RolloutAllocator(PROMPTS, rule=rule)
    rates = rng.choice([0, 0.1, 0.5, 0.9, 1], PROMPTS)
    _, first = batch(rng, allocator, rates)
    assert first.tolist() == [8, 8, 8, 8, 7, 7, 7]
    assert all(batch(rng, allocator, rates)[1].sum() == 53 for _ in range(23))


@pytest.mark.parametrize("rule", RULES)
def test_a_run_from_a_checkpoint_goes_on_as_the_straight_one(rule, tmp_path):
    rates = np.linspace(0, 1, PROMPTS)
    rng = np.random.default_rng(7)
    straight = RolloutAllocator(PROMPTS, rule=rule)
    for _ in range(13):
        batch(rng, straight, rates)
    np.savez(tmp_path / "state.npz", **straight.state_dict())
    resumed = RolloutAllocator(PROMPTS, rule=rule)
    with np.load(tmp_path / "state.npz", allow_pickle=False) as state:
        resumed.load_state_dict(state)
    state = rng.bit_generator.state
    ours = [batch(rng, straight, rates)[1].tolist() for _ in range(11)]
    rng.bit_generator.state = state
    assert [batch(rng, resumed, rates)[1].tolist() for _ in range(11)] == ours


def test_a_checkpoint_is_a_copy_and_must_fit():
    allocator = RolloutAllocator(3)
    state = allocator.state_dict()
    allocator.update([0, 0], [1, 0])
    assert state["posterior.successes"].tolist() == [0, 0, 0]
    with pytest.raises(BudgetError, match=r"rewards of shape \(5, 16\), got \(3, 16\)"):
        RolloutAllocator(5).load_state_dict(state)
    with pytest.raises(BudgetError, match="expected the arrays"):
        allocator.load_state_dict({"posterior.successes": [0, 0, 0]})


def test_the_published_estimate_by_hand():
    allocator = RolloutAllocator(2, rule="knapsack")
    allocator.update([0] * 7, [1] * 7)
    rate, known = allocator.recent.of(np.array([0, 1]))
    assert (rate.tolist(), known.tolist()) == ([1, 0], [False, False])  # seven are not enough
    allocator.update([0] * 12, [0] * 12)
    rate, known = allocator.recent.of(np.array([0]))
    assert rate.tolist() == [4 / 16]  # the visit's twelve and four of the seven before
    assert known.all()
    allocator.update([0] * 20, [0] * 4 + [1] * 16)
    assert allocator.recent.of(np.array([0]))[0].tolist() == [16 / 20]  # a visit of 16 or more stands alone


def test_minus_one_is_zero_and_other_rewards_need_a_rule():
    one, other = RolloutAllocator(2), RolloutAllocator(2, success_above=0.5)
    one.update([0, 0, 1], [1, -1, 0])
    other.update([0, 0, 1], [0.7, 0.5, -3.0])
    assert one.posterior.successes.tolist() == other.posterior.successes.tolist() == [1, 0]
    with pytest.raises(BudgetError, match=r"got 0\.7; give success_above="):
        one.update([0], [0.7])
    with pytest.raises(BudgetError, match="nan"):
        other.update([0], [float("nan")])


def test_the_posterior_forgets_at_each_visit_and_takes_the_unseen_for_one_of_the_others():
    allocator = RolloutAllocator(5, memory=0.5)
    assert allocator.posterior.prior() == (1, 1)
    allocator.update(np.repeat([0, 1, 2], 8), [1] * 8 + [0] * 8 + [1, 0] * 4)
    a0, b0 = allocator.posterior.prior()
    # Rates 1, 0, 1/2: mean 1/2, variance 1/6; rho = (4/6 - 1/8) / (7/8) = .619, and 1 / rho - 1 = .615.
    assert a0 == b0 == pytest.approx(0.6154 / 2, abs=1e-4)
    a, b = allocator.posterior.of(np.array([0, 1, 4]))
    assert (a - a0).tolist() == pytest.approx([4, 0, 0])
    assert (b - b0).tolist() == pytest.approx([0, 4, 0])
    allocator.update([0] * 4, [0] * 4)
    assert allocator.posterior.successes[0] == 4
    assert allocator.posterior.failures[0] == 4


@given(rewards=st.lists(st.sampled_from([0, 1]), min_size=2, max_size=60))
def test_a_data_set_whose_prompts_are_all_alike_has_a_narrow_but_proper_prior(rewards):
    allocator = RolloutAllocator(2)
    allocator.update([i % 2 for i in range(len(rewards))], rewards)
    a, b = allocator.posterior.prior()
    assert 0 < a < 100
    assert 0 < b < 100


def test_the_prior_comes_near_that_of_the_data_set():
    """Rates from Beta(2, 5), eight rollouts each: both within a fifth in at least 17 of 20 data sets."""
    hits = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        allocator = RolloutAllocator(3001)
        ids = np.repeat(np.arange(3001), 8)
        allocator.update(ids, rng.random(ids.size) < rng.beta(2, 5, 3001)[ids])
        a, b = allocator.posterior.prior()
        hits += abs(a / 2 - 1) < 0.2 and abs(b / 5 - 1) < 0.2
    assert hits >= 17


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda a: a.allocate([0, 0], 16), "each prompt once"),
        (lambda a: a.allocate([], 16), "each prompt once"),
        (lambda a: a.allocate([0, 5], 16), "from 0 to 4"),
        (lambda a: a.allocate([0.5], 16), "from 0 to 4"),
        (lambda a: a.allocate([0, 1], 3), "budget from 4"),
        (lambda a: a.update([0, 1], [1]), "got 2 and 1"),
        (lambda a: RolloutAllocator(5, rule="greedy"), "unknown rule 'greedy'; expected one of uniform"),
        (lambda a: RolloutAllocator(5, lower=0), "1 <= lower"),
        (lambda a: RolloutAllocator(5, memory=1.5), "memory from 0 to 1"),
        (lambda a: RolloutAllocator(5, rule="uniform").allocate([0], 16, costs=[2]), "no costs for the rule 'uniform'"),
        (lambda a: RolloutSampler(a, 6, 48), "batches of 1 to 5"),
    ],
)
def test_what_cannot_be_is_refused(call, said):
    with pytest.raises(BudgetError, match=said):
        call(RolloutAllocator(5))


def test_advantages_by_hand():
    # Group 4: rewards 1, 0, 0, mean 1/3, unbiased standard deviation sqrt(1/3): 2/3 and -1/3 over .5774.
    found = group_advantages([4, 9, 4, 4, 2, 2], [1.0, 7.0, 0.0, 0.0, 1.0, 1.0])
    assert found.tolist() == pytest.approx([1.1547, 0, -0.57735, -0.57735, 0, 0], abs=1e-4)
    # One success among 128 would be 11.2 standard deviations.
    assert group_advantages([0] * 128, [1] + [0] * 127).max() == 5


def test_an_epoch_visits_every_prompt_by_its_allocation():
    allocator = RolloutAllocator(23, lower=3)
    sampler = RolloutSampler(allocator, batch_prompts=7, budget=61, seed=3)
    epoch = []
    for i, prompt in enumerate(sampler):
        epoch.append(prompt)
        if i % 61 == 60:
            step = epoch[-61:]
            prompts, n = np.unique(step, return_counts=True)
            assert prompts.size == 7
            assert n.min() >= 3
            allocator.update(step, np.array(step) % 3 == 0)
    assert len(epoch) == len(sampler) == 3 * 61
    assert np.unique(epoch).size == 21
    again = RolloutSampler(allocator, batch_prompts=7, budget=61, seed=3)
    assert np.unique(list(again)).size == 21
    assert list(sampler)[:61] != epoch[:61]  # the next epoch has another order
