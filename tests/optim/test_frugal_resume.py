"""Saving, loading and going on, bit for bit."""

import copy
import io

import pytest
import torch
from torch import nn

from frugalbo.optim import UBA, Frugal, param_groups

ALL = ["blockwise", "columns", "rows", "randk", "svd", "random_orthogonal"]


class Net(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.embedding = nn.Embedding(11, 5, dtype=dtype)
        self.hidden = nn.ModuleList(nn.Linear(a, b, dtype=dtype) for a, b in [(5, 7), (7, 13), (13, 7), (7, 5)])
        self.norm = nn.LayerNorm(5, dtype=dtype)
        self.lm_head = nn.Linear(5, 11, bias=False, dtype=dtype)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for layer in self.hidden:
            x = torch.tanh(layer(x))
        return self.lm_head(self.norm(x))


def make(dtype=torch.float32, **options):
    torch.manual_seed(3)
    model = Net(dtype)
    optimizer = Frugal(param_groups(model), **{"lr": 1e-2, "density": 0.5, "update_gap": 4, **options})
    return model, optimizer, UBA(optimizer, 17, phi=0.7, warmup_steps=3, floor_ratio=0.1)


def train(model, optimizer, schedule, steps):
    for t in steps:
        tokens = torch.randint(11, (29,), generator=torch.Generator().manual_seed(t))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens), (tokens + 1) % 11).backward()
        optimizer.step()
        schedule.step()


def through_a_file(states):
    file = io.BytesIO()
    torch.save(states, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reset_state", [True, False], ids=["reset", "carry"])
@pytest.mark.parametrize("pause", [4, 6], ids=["at a refresh", "inside a gap"])
@pytest.mark.parametrize("projection", ALL)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(projection, pause, reset_state, dtype):
    options = {"projection": projection, "reset_state": reset_state, "dtype": dtype}
    straight = make(**options)
    train(*straight, range(15))
    paused = make(**options)
    train(*paused, range(pause))
    saved = through_a_file([part.state_dict() for part in paused])
    torch.manual_seed(99)
    resumed = make(**options)
    for part, state in zip(resumed, saved, strict=True):
        part.load_state_dict(state)
    train(*resumed, range(pause, 15))
    for a, b in zip(straight[0].parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(a, b)
    assert straight[2].get_last_lr() == resumed[2].get_last_lr()


@pytest.mark.parametrize("state_full", ["lion", "sgd"])
@pytest.mark.parametrize("projection", ["blockwise", "randk"])
def test_other_state_full_rules_resume_too(projection, state_full):
    options = {"projection": projection, "state_full": state_full}
    straight = make(**options)
    train(*straight, range(9))
    paused, resumed = make(**options), make(**options)
    train(*paused, range(5))
    for part, state in zip(resumed, through_a_file([p.state_dict() for p in paused]), strict=True):
        part.load_state_dict(state)
    train(*resumed, range(5, 9))
    for a, b in zip(straight[0].parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(a, b)


def test_indices_come_back_as_the_integers_they_were():
    # torch casts state to the parameter's type; bfloat16 holds no integer above 256 exactly.
    def optimizer():
        param = nn.Parameter(torch.zeros(29, 31, dtype=torch.bfloat16))
        param.grad = torch.ones_like(param)
        return Frugal([{"params": [param], "projectable": True}], projection="randk")

    one, other = optimizer(), optimizer()
    one.step()
    other.load_state_dict(one.state_dict())
    (before,), (after,) = one.state.values(), other.state.values()
    assert after["projector"].dtype == torch.int32
    assert torch.equal(before["projector"], after["projector"])


def test_saved_options_replace_those_given_as_in_torch():
    _, one, _ = make(density=0.25, update_gap=5, seed=7)
    _, other, _ = make()
    other.load_state_dict(one.state_dict())
    group = other.param_groups[0]
    assert (group["density"], group["update_gap"], group["seed"]) == (0.25, 5, 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"projection": "columns"}, "expected projection='columns', the state dict has 'blockwise'"),
        ({"state_full": "lion"}, "expected state_full='lion', the state dict has 'adamw'"),
    ],
)
def test_a_state_that_another_layout_has_made_is_refused(options, message):
    model, optimizer, schedule = make()
    train(model, optimizer, schedule, range(2))
    _, other, _ = make(**options)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match=f"cannot load group 0: {message}"):
        other.load_state_dict(optimizer.state_dict())
    assert other.state_dict() == before


def test_the_state_of_another_optimizer_is_refused():
    model, optimizer, _ = make()
    groups = [{"params": group["params"]} for group in optimizer.param_groups]
    with pytest.raises(ValueError, match="cannot load group 0: expected projectable=True, the state dict has None"):
        optimizer.load_state_dict(torch.optim.AdamW(groups).state_dict())
    del model


def test_a_deep_copy_goes_on_as_the_original_does():
    model, optimizer, schedule = make(projection="randk")
    train(model, optimizer, schedule, range(3))
    twin_model, twin, twin_schedule = copy.deepcopy((model, optimizer, schedule))
    train(model, optimizer, schedule, range(3, 6))
    train(twin_model, twin, twin_schedule, range(3, 6))
    for a, b in zip(model.parameters(), twin_model.parameters(), strict=True):
        assert torch.equal(a, b)
