"""The way from two frames of the console to the observation."""

import marimo

app = marimo.App(width="medium", app_title="From pixels to the observation")


@app.cell
def _():
    import marimo as mo

    from ppo37.course import notebook

    return mo, notebook


@app.cell
def _(mo):
    mo.md(
        r"""
        # From pixels to the observation

        Frames 3 and 4 of one step of Ms. Pac-Man, played at random. Each shows only some of the
        ghosts; the larger value of both shows all. The lesson is `ppo37 learn pixels`.
        """
    )
    return


@app.cell
def _(notebook):
    controls = notebook.controls("pixels")
    controls  # noqa: B018
    return (controls,)


@app.cell
def _(controls, notebook):
    notebook.draw("pixels", controls.value)
    return


@app.cell
def _(mo):
    mo.md(
        r"""
        ## Another game

        Change the name and run the cell: `ppo37 games` lists all.
        """
    )
    return


@app.cell
def _():
    import numpy as np

    from ppo37.envs.atari.env import Atari

    _envs = Atari("breakout", num_envs=1, seed=1)
    _obs = _envs.reset()
    for _ in range(40):
        _obs = _envs.step(np.array([1])).obs
    _envs.close()
    print(_obs.shape, _obs.dtype, "brightest pixel", _obs.max())
    return


if __name__ == "__main__":
    app.run()
