"""Sliders and figures of the charts for the notebooks, by marimo and plotly."""

from collections.abc import Mapping
from typing import Any

from .charts import CHARTS, Chart


def controls(name: str) -> Any:
    """Make the controls of a chart: sliders for numbers, menus for texts."""
    import marimo as mo

    chart = CHARTS[name]
    return mo.ui.dictionary({each: _control(chart, each) for each in chart.controls})


def _control(chart: Chart, name: str) -> Any:
    import marimo as mo

    values, start = chart.controls[name], chart.start[name]
    label = name.replace("_", " ")
    if isinstance(values[0], str):
        return mo.ui.dropdown(options=list(values), value=start, label=label)
    return mo.ui.slider(steps=list(values), value=start, label=label, show_value=True)


def draw(name: str, values: Mapping[str, Any]) -> Any:
    """Return the figure of a chart for some values of its controls."""
    import plotly.graph_objects as go

    return go.Figure(CHARTS[name].figure(**values))
