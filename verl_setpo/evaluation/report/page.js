"use strict";
// Draws the figures, sets up the browsers of rollouts, and keeps the page whole on paper and on a phone.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // Figures.
  const CONFIG = { displayModeBar: false, responsive: true, doubleClick: false };
  const PRINT_WIDTH = 304;

  function coloured(value) {
    if (typeof value === "string") return data.theme[value] ?? value;
    if (Array.isArray(value)) return value.map(coloured);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, coloured(inner)]));
  }

  function draw(place, width) {
    const original = data.charts[Number(place.dataset.chart)];
    const figure = structuredClone(dark.matches && !width ? coloured(original) : original);
    if (width) figure.layout.width = width;
    return Plotly.react(place, figure.data, figure.layout, CONFIG);
  }

  function drawAll(width) {
    document.querySelectorAll(".plot").forEach((place) => draw(place, width));
  }

  // A table that is cut at its right says so.
  function hint(table) {
    const said = document.createElement("p");
    said.className = "quiet hint";
    said.textContent = "More columns to the right →";
    const show = () => { said.hidden = table.scrollLeft + table.clientWidth >= table.scrollWidth - 2; };
    table.before(said);
    table.addEventListener("scroll", show, { passive: true });
    const watch = new ResizeObserver(show);
    watch.observe(table);
    watch.observe(table.firstElementChild);
  }

  // On paper nothing can be opened.
  const unfolded = [];
  function unfold() {
    for (const details of document.querySelectorAll("main > section:not(.browser) details:not([open])")) {
      details.open = true;
      unfolded.push(details);
    }
  }

  for (const section of document.querySelectorAll(".browser")) browseRollouts(section, data[section.dataset.browser]);
  document.querySelectorAll(".scroll").forEach(hint);
  drawAll();
  dark.addEventListener("change", () => drawAll());
  addEventListener("beforeprint", () => {
    unfold();
    drawAll(PRINT_WIDTH);
  });
  addEventListener("afterprint", () => {
    unfolded.splice(0).forEach((details) => { details.open = false; });
    drawAll();
    // Else they keep that width. The page is still laid out for paper now, but not in the next frame.
    requestAnimationFrame(() => document.querySelectorAll(".plot").forEach((place) => Plotly.Plots.resize(place)));
  });
  document.documentElement.dataset.ready = "true";
})();
