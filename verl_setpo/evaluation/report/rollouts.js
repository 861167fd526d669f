"use strict";
// Lists problems and shows the rollouts of one. Texts of the data reach the document as text nodes only.
const browseRollouts = (() => {
  const PAGE_ROWS = 8;
  const FIRST_CLUSTERS = 6;

  function element(tag, options = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(options)) {
      if (name === "text") made.textContent = value;
      else if (name === "on") made.addEventListener("click", value);
      else if (name === "class") made.className = value;
      else if (value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  function number(value, digits, sign) {
    const text = value.toFixed(digits);
    if (Number(text) === 0) return text.replace("-", "");
    return (sign && value > 0 ? "+" : "") + text.replace("-", "−");
  }

  function cutText(parts) {
    const made = element("pre", { tabindex: "0" });
    made.append(parts[0]);
    if (parts.length > 1) {
      made.append(element("span", { class: "gap", text: `${parts[1].toLocaleString("en")} characters left out` }));
      made.append(parts[2]);
    }
    return made;
  }

  function rolloutLine(rollout) {
    const said = [`rollout ${rollout.session}`];
    if (rollout.reward !== undefined) said.push(`reward ${number(rollout.reward, rollout.reward % 1 ? 3 : 0)}`);
    if (rollout.credit !== undefined) said.push(`credit ${number(rollout.credit, 3, true)}`);
    if (rollout.advantage !== undefined) said.push(`advantage ${number(rollout.advantage, 3, true)}`);
    if (rollout.truncated) said.push("cut by the length limit");
    return said.join(" · ");
  }

  // What is closed is made when it is opened.
  function unfolding(title, content) {
    const made = element("details", { class: "rollout" }, element("summary", { text: title }));
    made.addEventListener("toggle", () => made.append(...content()), { once: true });
    return made;
  }

  function rolloutView(rollout, open) {
    if (rollout.text === undefined) {
      return element("div", { class: "rollout" }, element("span", { text: rolloutLine(rollout) }));
    }
    if (!open) return unfolding(rolloutLine(rollout), () => [cutText(rollout.text)]);
    const summary = element("summary", { text: rolloutLine(rollout) });
    return element("details", { class: "rollout", open }, summary, cutText(rollout.text));
  }

  function clusterView(cluster, open) {
    const count = cluster.rollouts.length;
    const right = cluster.correct * 2 > count;
    const chip = cluster.correct === count ? "right" : cluster.correct ? `${cluster.correct} right` : "wrong";
    const [first, ...others] = cluster.rollouts;
    const made = element("article", { class: right ? "cluster right" : "cluster" },
      element("header", {},
        element("span", { class: "answer", text: cluster.label }),
        element("span", { class: "chip", text: chip }),
        element("span", { class: "quiet", text: count > 1 ? `${count} rollouts` : "1 rollout" })),
      rolloutView(first, open));
    if (others.length) {
      made.append(unfolding(`${others.length} more`, () => others.map((one) => rolloutView(one, false))));
    }
    return made;
  }

  function swatch({ run, start }) {
    const made = element("span", { class: start ? "swatch dashed" : "swatch" });
    made.style.setProperty("--c", run === null ? "var(--start)" : `var(--run-${run})`);
    return made;
  }

  function browser(section, content) {
    const { models, problems, figures, pairs, texts } = content;
    const view = { pair: pairs.length ? 0 : null, show: "all", find: "", page: 0, open: 0 };
    const starts = models.filter((model) => model.start).length;
    // Where each run has a start of its own, that of the chosen pair is beside the runs.
    const columns = () => models.map((_, i) => i).filter((i) =>
      !models[i].start || starts === 1 || view.pair === null || pairs[view.pair].includes(i));

    const figureText = (value) => content.percent ? `${(100 * value).toFixed(0)} %` : number(value, 2);
    const change = (i) => {
      const [a, b] = view.pair === null ? [] : pairs[view.pair].map((model) => figures[i][model]);
      return a && b && a[0] !== null && b[0] !== null ? b[0] - a[0] : 0;
    };
    const SHOW = {
      all: () => true,
      gained: (i) => change(i) > 1e-9,
      lost: (i) => change(i) < -1e-9,
      "with rollouts": (i) => i < texts.length,
    };
    function wanted() {
      const find = view.find.toLowerCase();
      const found = [];
      problems.forEach((text, i) => {
        if (SHOW[view.show](i) && (!find || text.toLowerCase().includes(find))) found.push(i);
      });
      const byChange = content.by_change || view.show === "gained" || view.show === "lost";
      return byChange ? found.sort((i, j) => Math.abs(change(j)) - Math.abs(change(i)) || i - j) : found;
    }

    const head = element("tr");
    const body = element("tbody");
    const said = element("span", { class: "quiet" });
    const shown = element("div", { class: "shown", "aria-live": "polite" });
    const buttons = Object.keys(SHOW).map((name) => element("button", {
      type: "button", text: name, on: () => { view.show = name; view.page = 0; fill(); },
    }));
    const earlier = element("button", { type: "button", text: "previous", on: () => { view.page -= 1; fill(); } });
    const later = element("button", { type: "button", text: "next", on: () => { view.page += 1; fill(); } });
    const find = element("input", { type: "search", placeholder: "find in problems", "aria-label": "Find in problems" });
    find.addEventListener("input", () => { view.find = find.value; view.page = 0; fill(); });
    const pick = element("select", { "aria-label": "Models to compare" },
      ...pairs.map(([a, b], i) => element("option", { value: i, text: `${models[a].name} → ${models[b].name}` })));
    pick.addEventListener("change", () => { view.pair = Number(pick.value); view.page = 0; openFirst(); });

    function cell(figure) {
      if (figure === null) return element("td", { text: "–" });
      const made = element("td", { text: figure[0] === null ? "–" : figureText(figure[0]) });
      if (figure[2] !== null) made.append(element("small", { text: `${Number(figure[2].toFixed(1))} ${content.distinct}` }));
      return made;
    }

    function line(i) {
      const title = problems[i] || "(no text)";
      const name = i < texts.length
        ? element("button", { type: "button", text: title, on: () => { open(i, true); } })
        : element("span", { text: title });
      const made = element("tr", { class: i === view.open ? "open" : null }, element("th", { scope: "row" }, name));
      made.append(...columns().map((model) => cell(figures[i][model])));
      if (view.pair !== null) {
        const by = change(i);
        const kind = by > 1e-9 ? "better" : by < -1e-9 ? "worse" : null;
        const text = content.percent ? number(100 * by, 0, true) : number(by, 2, true);
        made.append(element("td", { class: kind, text: kind ? text : "0" }));
      }
      return made;
    }

    function fill() {
      const found = wanted();
      const pages = Math.max(1, Math.ceil(found.length / PAGE_ROWS));
      view.page = Math.min(Math.max(view.page, 0), pages - 1);
      const from = view.page * PAGE_ROWS;
      body.replaceChildren(...found.slice(from, from + PAGE_ROWS).map(line));
      const to = Math.min(from + PAGE_ROWS, found.length);
      said.textContent = found.length ? `${from + 1} to ${to} of ${found.length.toLocaleString("en")}` : "none";
      earlier.disabled = view.page === 0;
      later.disabled = view.page === pages - 1;
      head.replaceChildren(element("th", { scope: "col", text: "problem" }),
        ...columns().map((model) => element("th", { scope: "col", text: models[model].name })),
        ...(pairs.length ? [element("th", { scope: "col", text: content.percent ? "change, points" : "change" })] : []));
      buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.textContent === view.show)));
    }

    function modelView(group, i, model) {
      const figure = figures[i][model];
      const made = element("section", { class: "model" },
        element("h3", {}, swatch(models[model]), element("span", { text: models[model].name })));
      if (!group || !figure) {
        made.append(element("p", { class: "quiet", text: "does not have this prompt here" }));
        return made;
      }
      const [value, samples, distinct] = figure;
      const parts = [value === null ? null : content.percent ? `${figureText(value)} right` : `mean reward ${figureText(value)}`,
        `${samples} rollouts`, distinct === null ? null : `${Number(distinct.toFixed(1))} ${content.distinct}`];
      made.append(element("p", { class: "quiet", text: parts.filter(Boolean).join(" · ") }));
      made.append(...group.clusters.slice(0, FIRST_CLUSTERS).map((cluster, c) => clusterView(cluster, c === 0)));
      const others = group.clusters.slice(FIRST_CLUSTERS);
      if (others.length) {
        made.append(unfolding(`${others.length} more clusters`, () => others.map((cluster) => clusterView(cluster, false))));
      }
      if (group.more) made.append(element("p", { class: "quiet", text: `and ${group.more} clusters that are not in this page` }));
      return made;
    }

    function open(i, scroll) {
      view.open = i;
      fill();
      const entry = texts[i];
      const parts = [element("h3", { text: problems[i] || "(no text)" })];
      if (entry.truth) parts.push(element("p", { class: "quiet", text: `ground truth: ${entry.truth}` }));
      if (entry.prompt) {
        parts.push(element("details", { class: "rollout" }, element("summary", { text: "whole prompt" }), cutText(entry.prompt)));
      }
      parts.push(element("div", { class: "models" }, ...columns().map((model) => modelView(entry.groups[model], i, model))));
      shown.replaceChildren(...parts);
      if (scroll) shown.scrollIntoView({ block: "start" });
    }

    function openFirst() {
      open(wanted().find((i) => i < texts.length) ?? 0, false);
    }

    const controls = element("div", { class: "controls" }, pairs.length > 1 ? pick : null,
      ...buttons.filter((button) => pairs.length || !["gained", "lost"].includes(button.textContent)), find);
    const table = element("div", { class: "scroll" }, element("table", {}, element("thead", {}, head), body));
    section.append(controls, table, element("div", { class: "controls" }, earlier, later, said), shown);
    openFirst();
  }

  return browser;
})();
