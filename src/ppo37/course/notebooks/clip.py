"""The clipped objective, with sliders."""

import marimo

app = marimo.App(width="medium", app_title="The clipped objective")


@app.cell
def _():
    import marimo as mo

    from ppo37.course import notebook

    return mo, notebook


@app.cell
def _(mo):
    mo.md(
        r"""
        # The clipped objective

        Move the ratio of a good action ($A > 0$) above the range: the gradient becomes 0. Then
        make the action bad ($A < 0$) and keep the ratio: the gradient is there again, and
        brings it back. Find all four cases of sign and side. The lesson is `ppo37 learn clip`.
        """
    )
    return


@app.cell
def _(notebook):
    controls = notebook.controls("clip")
    controls  # noqa: B018
    return (controls,)


@app.cell
def _(controls, notebook):
    notebook.draw("clip", controls.value)
    return


@app.cell
def _(mo):
    mo.md(
        r"""
        ## Your own objective

        Change the function and run the cell. What happens to the gradient without the minimum?
        """
    )
    return


@app.cell
def _():
    import torch

    def objective(ratio, advantage, eps=0.2):
        clipped = ratio.clamp(1 - eps, 1 + eps)
        return torch.min(ratio * advantage, clipped * advantage)

    for _advantage in (1.0, -1.0):
        for _value in (0.5, 0.9, 1.1, 1.5):
            _ratio = torch.tensor(_value, requires_grad=True)
            (_slope,) = torch.autograd.grad(objective(_ratio, _advantage), _ratio)
            print(f"A {_advantage:+.0f}, ratio {_value}: gradient {_slope.item():+.1f}")
    return (objective,)


if __name__ == "__main__":
    app.run()
