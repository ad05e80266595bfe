// Draw the charts of the lessons: a figure for each position of the sliders is in ppo37Charts.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".chart").forEach((element) => {
    const chart = window.ppo37Charts[element.dataset.chart];
    const plot = element.querySelector(".chart-plot");
    const sliders = [...element.querySelectorAll("input")];
    const draw = () => {
      sliders.forEach((slider, i) => {
        const text = String(chart.controls[i].values[slider.value]);
        slider.parentElement.querySelector("output").textContent = text;
        slider.setAttribute("aria-valuetext", text);
      });
      const figure = chart.figures[sliders.map((slider) => slider.value).join(",")];
      const options = { displayModeBar: false, responsive: true };
      Plotly.react(plot, figure.data, figure.layout, options);
      plot.dataset.title = figure.layout.title.text;
    };
    sliders.forEach((slider) => slider.addEventListener("input", draw));
    draw();
  });
});
