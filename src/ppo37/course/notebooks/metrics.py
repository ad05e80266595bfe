"""The metrics of a healthy run and of four broken ones."""

import marimo

app = marimo.App(width="medium", app_title="Read the metrics")


@app.cell
def _():
    import marimo as mo

    from ppo37.course import notebook

    return mo, notebook


@app.cell
def _(mo):
    mo.md(
        r"""
        # Read the metrics

        A healthy run of `catch` and four that are broken on purpose. For each: which metric
        shows it first, and which one hides it? The lesson is `ppo37 learn training`, and `ppo37
        learn bug 1` has five more, without their names.
        """
    )
    return


@app.cell
def _(notebook):
    controls = notebook.controls("metrics")
    controls  # noqa: B018
    return (controls,)


@app.cell
def _(controls, notebook):
    notebook.draw("metrics", controls.value)
    return


@app.cell
def _(mo):
    mo.md(
        r"""
        ## A run of your own

        Give the directory of a run, and draw any of its metrics.
        """
    )
    return


@app.cell
def _():
    import json
    from pathlib import Path

    _log = Path("runs/catch/metrics.jsonl")
    if _log.exists():
        for _line in _log.read_text().splitlines()[::10]:
            _record = json.loads(_line)
            print(_record["agent_steps"], f"{_record['losses/explained_variance']:.3f}")
    else:
        print(f"there is no {_log}: train with ppo37 train catch --out runs/catch")
    return


if __name__ == "__main__":
    app.run()
