"""The loss of GRPO: a clipped policy gradient with group-relative advantages, and what it needs.

| symbol | meaning | shape |
|---|---|---|
| o | responses, `t` tokens each up to its length | b x t |
| A | advantages, one for each response | b |
| w | weights of responses in the loss, for each of their tokens | b |
| r | `pi(o_t) / pi_old(o_t)`, the ratio of the policy to the one that sampled | b x t |
| e | `clip_low`, `clip_high` | |
| beta | `kl` | |

    loss = - sum_i w_i sum_t [ min(r A_i, clip(r, 1 - e_low, 1 + e_high) A_i) - beta k3 ]
    k3   = pi_ref / pi - log(pi_ref / pi) - 1

Sources: GRPO, arXiv:2402.03300, equations 3 and 4 (k3 is its estimate of the divergence from the reference); the two
clips and the mean over tokens, DAPO, arXiv:2503.14476; the advantage without the standard deviation, Dr. GRPO,
arXiv:2503.20783. All probabilities are those at the temperature of sampling.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformer import Transformer

Loss = Literal["tokens", "groups"]


def log_probs(model: Transformer, prompts: Tensor, responses: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of each token of `responses` (b x t) after `prompts` (b x p); shape b x t, float32."""
    tokens = torch.cat([prompts, responses], 1)[:, :-1]
    logits = model(tokens)[:, prompts.shape[1] - 1 :].float() / temperature
    return -F.cross_entropy(logits.transpose(1, 2), responses, reduction="none")


def response_weights(groups: Tensor, lengths: Tensor, loss: Loss) -> Tensor:
    """What each token of a response counts for, shape b.

    Args:
        groups: The group of each response, shape b.
        lengths: Its tokens, shape b.
        loss: `"tokens"`: the mean over all tokens, as in DAPO; `"groups"`: the mean over groups of the mean over
            their responses of the mean over their tokens, as first published.
    """
    if loss == "tokens":
        return torch.ones_like(lengths, dtype=torch.float32) / lengths.sum()
    _, group, n = groups.unique(return_inverse=True, return_counts=True)
    return 1.0 / (len(n) * n[group] * lengths)


def grpo_loss(
    new: Tensor,
    old: Tensor,
    advantages: Tensor,
    weights: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    reference: Tensor | None = None,
    kl: float = 0.0,
) -> Tensor:
    """The loss above, as a number.

    Args:
        new: Log-probabilities under the policy, shape b x t, with a gradient.
        old: Under the policy that sampled.
        advantages: Shape b.
        weights: Shape b; they need not add up to anything, so that a batch can be parted.
        mask: Which tokens belong to their response, shape b x t.
        clip_low: How far below 1 the ratio may go before a response counts no more.
        clip_high: How far above.
        reference: Log-probabilities under the reference; needed if `kl` is not 0.
        kl: See above.
    """
    ratio = (new - old).exp()
    gained = advantages[:, None]
    each = torch.minimum(ratio * gained, ratio.clamp(1 - clip_low, 1 + clip_high) * gained)
    if kl:
        assert reference is not None
        away = reference - new
        each = each - kl * (away.exp() - away - 1)
    return -(weights[:, None] * each * mask).sum()
