"""Networks that have seen tuning before: neural processes trained on many tasks, and what proposes with them.

`network` is the neural acquisition process as published, `universal` ours for any space of up to 20
dimensions, `priors` and `train` make its weights, `weights` keeps them, `model` makes it a BoTorch
`Model`, `acquisition` weighs it against the Gaussian process on the task at hand. See docs/metabo.md.
"""
