"""The network as published: its size, its mask, its invariances."""

import pytest
import torch
from torch import nn

from frugalbo.metabo.network import NAP, Block, NAPShape

SMALL = NAPShape(width=22, heads=2, layers=3, hidden=26, buckets=17, policy=7)
B, N, M, D = 2, 7, 5, 3


def network(seed=0):
    torch.manual_seed(seed)
    net = NAP(D, SMALL).double()
    for parameter in net.parameters():  # away from the small initial weights, where all is nearly linear
        nn.init.normal_(parameter, std=0.4)
    return net


def task(seed=1):
    g = torch.Generator().manual_seed(seed)
    X, y = (torch.rand(*s, generator=g, dtype=torch.float64) for s in [(B, N, D), (B, N)])
    filled = torch.zeros(B, N, dtype=torch.bool)
    filled[0, :5] = True
    filled[1, :2] = True
    candidates, best, time = (torch.rand(*s, generator=g, dtype=torch.float64) for s in [(B, M, D), (B,), (B,)])
    return [X, y, filled, candidates, best, time]


def flat(answer):
    return torch.cat([answer.bars.flatten(), answer.policy.flatten(), answer.value])


@pytest.mark.literature
@pytest.mark.parametrize("dims", [2, 16])
def test_the_published_network_has_the_published_number_of_parameters(dims):
    """14,554,202 + 512 D, counted in the authors' code."""
    assert sum(p.numel() for p in NAP(dims).parameters()) == 14_554_202 + 512 * dims


def test_a_block_is_torchs_encoder_layer_under_the_published_mask():
    torch.manual_seed(3)
    block = Block(22, 2, 26).double()
    layer = nn.TransformerEncoderLayer(22, 2, 26, dropout=0.0, activation="gelu", batch_first=True).double()
    pairs = {
        "self_attn.in_proj_": block.project, "self_attn.out_proj.": block.out, "linear1.": block.wide,
        "linear2.": block.narrow, "norm1.": block.after_attention, "norm2.": block.after_feed,
    }  # fmt: skip
    layer.load_state_dict(
        {f"{name}{part}": getattr(m, part) for name, m in pairs.items() for part in ("weight", "bias")}
    )
    seen, asked = torch.randn(B, N, 22, dtype=torch.float64), torch.randn(B, M, 22, dtype=torch.float64)
    may_look = torch.eye(N + M, dtype=torch.bool)
    may_look[:, :N] = True
    expected = layer(torch.cat([seen, asked], dim=1), src_mask=~may_look)
    torch.testing.assert_close(block.read(seen), expected[:, :N])
    torch.testing.assert_close(block.answer(asked, seen), expected[:, N:])


def test_the_order_of_the_history_does_not_matter():
    net, (X, y, filled, *rest) = network(), task()
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    torch.testing.assert_close(
        flat(net(X[:, order], y[:, order], filled[:, order], *rest)), flat(net(X, y, filled, *rest)), rtol=0, atol=1e-6
    )


def test_a_candidate_does_not_see_the_others():
    net, (X, y, filled, candidates, best, time) = network(), task()
    together = net(X, y, filled, candidates, best, time)
    for i in range(M):
        alone = net(X, y, filled, candidates[:, i : i + 1], best, time)
        torch.testing.assert_close(alone.bars[:, 0], together.bars[:, i], rtol=0, atol=1e-6)
        torch.testing.assert_close(alone.policy[:, 0], together.policy[:, i], rtol=0, atol=1e-6)


def test_placeholders_are_never_looked_at_and_results_always_are():
    net, (X, y, filled, *rest) = network(), task()
    before = flat(net(X, y, filled, *rest))
    other = torch.where(filled, y, y + 3)
    torch.testing.assert_close(flat(net(X, other, filled, *rest)), before, rtol=0, atol=1e-12)
    changed = y.clone()
    changed[0, 4] += 0.1
    assert (net(X, changed, filled, *rest).bars[0] - net(X, y, filled, *rest).bars[0]).abs().amax(-1).min() > 1e-6
    torch.testing.assert_close(net(X, changed, filled, *rest).bars[1], net(X, y, filled, *rest).bars[1])


def test_without_any_history_there_is_an_answer():
    net, (X, y, filled, *rest) = network(), task()
    assert torch.isfinite(flat(net(X, y, torch.zeros_like(filled), *rest))).all()


def test_the_value_knows_the_best_and_the_time_alone():
    net, (X, y, filled, candidates, best, time) = network(), task()
    value = net(X, y, filled, candidates, best, time).value
    torch.testing.assert_close(net(X + 1, y, filled, candidates, best, time).value, value)
    assert (net(X, y, filled, candidates, best + 0.1, time).value - value).abs().min() > 1e-6
