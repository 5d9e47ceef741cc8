"""Fine-tuning: what it depends on, when it is refused, and that it goes on where it was."""

import numpy as np
import pytest
import torch

from frugalbo.errors import WeightsError
from frugalbo.metabo import finetune
from frugalbo.metabo.finetune import FineTuning, Results, fine_tune
from frugalbo.metabo.universal import Universal, UniversalShape
from frugalbo.metabo.weights import load, save

SHAPE = UniversalShape(kernels=2, width=8, layers=1, dims_width=8, refinements=1, buckets=12, most_dims=5, most_seen=13)
FEW = FineTuning(steps=6, every=2, batch=3, asked=5, lr=3e-3)


class _Killed(Exception):
    """Where a fine-tuning is interrupted."""


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Universal(SHAPE).eval().requires_grad_(False)


def study(i, n=17):
    rng = np.random.default_rng(i)
    U = rng.random((n, 3))
    return Results(f"s{i}", U, ((U - 0.3) ** 2).sum(1) + 0.01 * i, (2,) if i == 1 else ())


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.fixture
def anything_is_better(monkeypatch):
    """The verdict is always for the new weights, so that they can be looked at."""
    losses, looks = finetune._losses, []

    def falling(network, batches):
        looks.append(1)
        return losses(network, batches) - len(looks)

    monkeypatch.setattr(finetune, "_losses", falling)


@pytest.mark.slow
@pytest.mark.usefixtures("anything_is_better")
def test_one_that_was_interrupted_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    begin, path = network(), tmp_path / "w.checkpoint"
    straight, _ = fine_tune(begin, [study(i) for i in range(5)], FEW, tmp_path / "other")
    learn, done = finetune.learn, []

    def killed(*args):
        if len(done) == 5:
            raise _Killed
        done.append(1)
        return learn(*args)

    monkeypatch.setattr(finetune, "learn", killed)
    with pytest.raises(_Killed):
        fine_tune(begin, [study(i) for i in range(5)], FEW, path)
    monkeypatch.setattr(finetune, "learn", learn)
    again, verdict = fine_tune(begin, [study(i) for i in range(5)], FEW, path)
    assert verdict.kept
    assert same(straight, again)
    assert not same(begin, again)
    assert not path.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("anything_is_better")
def test_the_order_of_studies_and_one_that_cannot_be_learnt_from_have_no_influence(tmp_path):
    begin, studies = network(), [study(i) for i in range(5)]
    found, _ = fine_tune(begin, studies, FEW, tmp_path / "c")
    flat = Results("flat", np.random.default_rng(0).random((9, 3)), np.ones(9))
    again, _ = fine_tune(begin, [study(9, n=7), *studies[::-1], flat], FEW, tmp_path / "c")
    assert same(found, again)
    other, _ = fine_tune(begin, studies[1:], FEW, tmp_path / "c")
    assert not same(found, other)


@pytest.mark.parametrize("lr", [1.0, 30.0])  # of which the second ends in weights whose kernels cannot be solved
def test_weights_that_are_worse_are_not_to_be_kept(tmp_path, lr):
    much = FineTuning(steps=6, every=2, batch=3, asked=5, lr=lr)
    _, verdict = fine_tune(network(), [study(i) for i in range(2)], much, tmp_path / "c")
    assert not verdict.kept
    assert not verdict.after < verdict.before - verdict.error
    assert verdict.held_out == ()  # of two studies, results are held out
    assert "no better, the weights stay as they were" in str(verdict)


@pytest.mark.slow
def test_it_learns_what_all_studies_have_in_common(tmp_path):
    begin = network()
    tuning = FineTuning(steps=120, every=20, batch=8, asked=8, lr=1e-2)
    after, verdict = fine_tune(begin, [study(i, n=29) for i in range(8)], tuning, tmp_path / "c")
    assert verdict.kept
    assert len(verdict.held_out) == 2
    assert verdict.after < verdict.before - 2 * verdict.error
    assert not same(after, begin)


def test_what_is_held_out_is_not_learnt(tmp_path):
    some = FineTuning(steps=2, every=2, batch=3, asked=5)
    few = finetune._Own([study(i) for i in range(3)], 5, 13, some)
    many = finetune._Own([study(i) for i in range(8)], 5, 13, some)
    assert len(many.apart) == 2
    points = {tuple(u) for s in many.apart for u in s.U}
    assert not any(tuple(u) in points for i in range(40) for u in _all(many.draw(i)))
    asked = {tuple(u) for i in range(6) for u in few.held_out(i).Q.flatten(0, 1).tolist()}
    assert len(asked) == 3 * (17 // 4)
    assert not any(tuple(u) in asked for i in range(40) for u in _all(few.draw(i)))


def _all(tasks):
    return torch.cat([tasks.X.flatten(0, 1), tasks.Q.flatten(0, 1)]).tolist()


def test_what_there_is_nothing_to_learn_from_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="at least 8 results"):
        fine_tune(network(), [study(0, n=7)], FEW, tmp_path / "c")
    with pytest.raises(WeightsError, match="expected lr above 0"):
        FineTuning(lr=-1.0)
    (tmp_path / "c").write_text("something else")
    with pytest.raises(WeightsError, match="got something else"):
        fine_tune(network(), [study(0)], FEW, tmp_path / "c")


@pytest.mark.usefixtures("anything_is_better")
def test_a_checkpoint_of_other_studies_or_weights_is_refused(tmp_path, monkeypatch):
    learn, done = finetune.learn, []

    def killed(*args):
        if len(done) == 3:
            raise _Killed
        done.append(1)
        return learn(*args)

    monkeypatch.setattr(finetune, "learn", killed)
    with pytest.raises(_Killed):
        fine_tune(network(), [study(0)], FEW, tmp_path / "c")
    for begin, studies in ((network(1), [study(0)]), (network(), [study(0), study(2)])):
        with pytest.raises(WeightsError, match="another digest"):
            fine_tune(begin, studies, FEW, tmp_path / "c")


def test_the_network_before_goes_with_the_one_after(tmp_path):
    save(tmp_path / "w.pt", network(1), {}, base=network())
    held = load(tmp_path / "w.pt")
    assert held.base is not None
    assert same(held.base, network())
    assert same(held.network, network(1))
    record = torch.load(tmp_path / "w.pt", weights_only=True)
    torch.save({**record, "base": {"foreign": torch.zeros(2)}}, tmp_path / "v.pt")
    with pytest.raises(WeightsError, match="do not fit"):
        load(tmp_path / "v.pt")
