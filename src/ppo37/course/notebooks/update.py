"""One whole update of catch in numbers."""

import marimo

app = marimo.App(width="medium", app_title="One update in numbers")


@app.cell
def _():
    import marimo as mo

    from ppo37.course import notebook

    return mo, notebook


@app.cell
def _(mo):
    mo.md(
        r"""
        # One update in numbers

        Two environments of `catch`, four steps each, and a small network. Follow the same eight
        samples from the rollout to the ratios after each gradient step. In step 2 both balls
        land, which gives a reward and ends the episodes. The lesson is `ppo37 learn update`;
        `ppo37 explain RUN` shows an update of a run of your own in the same way.
        """
    )
    return


@app.cell
def _(notebook):
    controls = notebook.controls("update")
    controls  # noqa: B018
    return (controls,)


@app.cell
def _(controls, notebook):
    notebook.draw("update", controls.value)
    return


@app.cell
def _(mo):
    mo.md(
        r"""
        ## By hand

        The advantages of environment 0, computed from the numbers of the table.
        """
    )
    return


@app.cell
def _():
    from ppo37.course.charts import UPDATE_STAGES, small_update

    _table = small_update()[UPDATE_STAGES[2]]
    _delta = [float(x) for x in _table["delta"][::2]]
    _done = [float(x) for x in _table["done"][::2]]
    _advantage, _found = 0.0, []
    for _t in reversed(range(4)):
        _advantage = _delta[_t] + 0.99 * 0.95 * (1 - _done[_t]) * _advantage
        _found.append(round(_advantage, 3))
    print("by hand ", _found[::-1])
    print("table   ", [float(x) for x in _table["A"][::2]])
    return


if __name__ == "__main__":
    app.run()
