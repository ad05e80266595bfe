"""Entropy and the KL divergence, with a slider."""

import marimo

app = marimo.App(width="medium", app_title="Entropy and KL")


@app.cell
def _():
    import marimo as mo

    from ppo37.course import notebook

    return mo, notebook


@app.cell
def _(mo):
    mo.md(
        r"""
        # Entropy and the KL divergence

        The old policy has the logits 2, 1, 0 and -1. The new one has the same, divided by a
        temperature. A small temperature makes it certain (entropy near 0), a large one
        undecided (entropy near log 4). The KL divergence says how far the two are apart;
        training estimates it from the actions that were taken. The lessons are `ppo37 learn
        policy` and `ppo37 learn training`.
        """
    )
    return


@app.cell
def _(notebook):
    controls = notebook.controls("entropy")
    controls  # noqa: B018
    return (controls,)


@app.cell
def _(controls, notebook):
    notebook.draw("entropy", controls.value)
    return


@app.cell
def _(mo):
    mo.md(
        r"""
        ## How good is the estimate?

        Both estimates have the same mean. The second one is never negative for a sample, and
        has less noise.
        """
    )
    return


@app.cell
def _():
    import torch

    from ppo37.algorithm.distributions import Categorical

    _old = Categorical(torch.tensor([[2.0, 1.0, 0.0, -1.0]]).expand(10_000, 4))
    _new = Categorical(_old.logits / 1.5)
    _actions = _old.sample(torch.rand(10_000, generator=torch.Generator().manual_seed(0)))
    _log_ratio = _new.log_prob(_actions) - _old.log_prob(_actions)
    for _name, _each in (
        ("-log rho", -_log_ratio),
        ("rho - 1 - log rho", _log_ratio.exp() - 1 - _log_ratio),
    ):
        print(f"{_name:18} mean {_each.mean():.4f}, standard deviation {_each.std():.4f}")
    return


if __name__ == "__main__":
    app.run()
