"""Generalized advantage estimation, with sliders."""

import marimo

app = marimo.App(width="medium", app_title="Advantages")


@app.cell
def _():
    import marimo as mo

    from ppo37.course import notebook

    return mo, notebook


@app.cell
def _(mo):
    mo.md(
        r"""
        # Who gets credit?

        One reward in step 9, which ends the episode; all values are 0. The bars are the
        recursion E7, the crosses the sum that it stands for. With lambda 0 only the last step
        gets credit, with lambda 1 all of them, discounted by gamma. Steps 10 to 13 belong to
        another episode and get nothing. The lesson is `ppo37 learn advantages`.
        """
    )
    return


@app.cell
def _(notebook):
    controls = notebook.controls("gae")
    controls  # noqa: B018
    return (controls,)


@app.cell
def _(controls, notebook):
    notebook.draw("gae", controls.value)
    return


@app.cell
def _(mo):
    mo.md(
        r"""
        ## Your own numbers

        Change rewards, values and dones and run the cell.
        """
    )
    return


@app.cell
def _():
    import torch

    from ppo37.algorithm.advantages import gae

    rewards = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    values = torch.tensor([[0.5], [0.5], [1.0], [0.5], [1.0]])
    dones = torch.tensor([[0.0], [0.0], [0.0], [0.0]])
    for _lam in (0.0, 0.5, 1.0):
        print(f"lambda {_lam}:", gae(rewards, values, dones, 0.5, _lam).flatten().tolist())
    return dones, rewards, values


if __name__ == "__main__":
    app.run()
