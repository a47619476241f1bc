"use strict";
// Pinned heads, and the heat map of every score.
icl.pins = (() => {
  const listeners = [];
  let pinned = null;
  const same = (a, b) => a && b && a.layer === b.layer && a.head === b.head;
  return {
    get: () => pinned,
    name: (head) => (head ? `${head.layer}.${head.head}` : ""),
    parse: (text) => {
      const found = /^(\d+)\.(\d+)$/.exec(text.trim());
      return found ? { layer: Number(found[1]), head: Number(found[2]) } : null;
    },
    on: (listener) => listeners.push(listener),
    pin: (head) => {
      if (!head || same(head, pinned)) return;
      pinned = head;
      listeners.forEach((listener) => listener(head));
    },
  };
})();

(() => {
  const { el, byId, number, pins } = icl;
  for (const button of document.querySelectorAll("[data-pin]")) {
    const head = pins.parse(button.dataset.pin);
    if (head) button.addEventListener("click", () => pins.pin(head));
  }
  for (const node of document.querySelectorAll(".circuit .node")) {
    const head = { layer: Number(node.dataset.layer), head: Number(node.dataset.head) };
    const pin = () => pins.pin(head);
    node.addEventListener("click", pin);
    node.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pin(); }
    });
    pins.on((now) => node.classList.toggle("on", now.layer === head.layer && now.head === head.head));
  }

  const heads = icl.data.heads;
  if (!heads) return;
  for (const score of heads.scores) {
    for (const name of ["values", "stderr", "low", "high"]) {
      if (score[name]) score[name] = icl.grid(score[name], heads.heads);
    }
  }
  const box = byId("map"), told = byId("map-told"), choice = byId("score");
  heads.scores.forEach((score, index) => choice.append(el("option", { value: index }, score.label)));
  choice.value = String(Math.max(heads.scores.findIndex((score) => score.name === "induction"), 0));
  let cursor = { layer: 0, head: 0 };
  const current = () => heads.scores[Number(choice.value)];
  // Which score it is stands above the map: paper shows no select.
  const name = () => {
    const { label } = current();
    byId("score-name").textContent = label;
    box.setAttribute("aria-label", `Heat map, layer by head: ${label}. Arrow keys move, Enter pins.`);
  };
  const at = (grid, head) => (grid && grid[head.layer] ? grid[head.layer][head.head] : null) ?? null;

  function describe(score, head) {
    const value = at(score.values, head);
    if (value === null) return "not measured";
    const low = at(score.low, head), high = at(score.high, head), error = at(score.stderr, head);
    if (low !== null && high !== null) return `${number(value)}, 95% [${number(low)}, ${number(high)}]`;
    return error !== null ? `${number(value)} ± ${number(error, 2)}` : number(value);
  }

  // Shares on one scale that colour-blind people read too; around 0 what has a sign by its
  // definition, so that a score has the same scale on every model. What has no bound ends at its
  // largest value, a difference of probabilities too, which is far below its bound.
  const SIGNED = { ov_eigenvalue: 1, ov_behaviour: 1, induction_excess: 1,
    function_vector: null, delta: null, logit: null };
  function scale(score) {
    const known = score.values.flat().filter((value) => value !== null);
    const low = Math.min(...known), high = Math.max(...known);
    const bound = SIGNED[score.name.split(" · ")[0]];
    if (bound === undefined && low >= 0) return { zmin: 0, zmax: Math.max(high, 1), colorscale: "Cividis" };
    const size = bound ?? (Math.max(-low, high) || 1);
    const middle = icl.isDark() ? "#24292e" : "#f4f4f2";
    return { zmin: -size, zmax: size,
      colorscale: [[0, "#b35806"], [0.25, "#f1a340"], [0.5, middle], [0.75, "#5aa4d8"], [1, "#0b4f8a"]] };
  }

  const draw = icl.chart(box, () => {
    const score = current();
    const text = score.values.map((row, layer) => row.map((_, head) =>
      `<b>${layer}.${head}</b><br>${describe(score, { layer, head })}`));
    const shapes = [];
    const pinned = pins.get();
    const frame = (head, tone, dash) => shapes.push({ type: "rect", x0: head.head - 0.5,
      x1: head.head + 0.5, y0: head.layer - 0.5, y1: head.layer + 0.5,
      line: { color: icl.color(tone), width: 3, dash } });
    if (document.activeElement === box) frame(cursor, "c3", "dot");
    if (pinned) frame(pinned, "c2", "solid");
    return {
      traces: [{ type: "heatmap", z: score.values, text, hovertemplate: "%{text}<extra></extra>",
        xgap: 1, ygap: 1, colorbar: { thickness: 12, len: 0.9, outlinewidth: 0 }, ...scale(score) }],
      layout: { height: Math.min(Math.max(220, 17 * heads.layers + 70), 900), shapes, dragmode: false,
        xaxis: { title: { text: "head" }, dtick: heads.heads > 16 ? 4 : 1, showgrid: false, zeroline: false },
        yaxis: { title: { text: "layer" }, dtick: heads.layers > 16 ? 4 : 1, showgrid: false, zeroline: false } },
    };
  });

  function say(head) {
    told.textContent = `Head ${pins.name(head)}: ${describe(current(), head)} on “${current().label}”`;
  }
  choice.addEventListener("change", () => {
    name();
    say(cursor);
    draw();
  });
  name();
  box.addEventListener("keydown", (event) => {
    const moves = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pins.pin({ ...cursor }); return; }
    if (!moves[event.key]) return;
    event.preventDefault();
    const [up, right] = moves[event.key];
    cursor = { layer: Math.min(Math.max(cursor.layer + up, 0), heads.layers - 1),
      head: Math.min(Math.max(cursor.head + right, 0), heads.heads - 1) };
    say(cursor);
    draw();
  });
  box.addEventListener("focus", draw);
  box.addEventListener("blur", draw);
  // Plotly gives the element its own event functions once it has drawn.
  const wire = () => {
    if (!box.on || box.dataset.wired) return;
    box.dataset.wired = "yes";
    box.on("plotly_click", (event) => {
      const point = event.points[0];
      pins.pin({ layer: point.y, head: point.x });
    });
  };
  new MutationObserver(wire).observe(box, { attributes: true, attributeFilter: ["data-drawn"] });

  pins.on((head) => {
    cursor = { ...head };
    byId("pinned-name").textContent = pins.name(head);
    const rows = heads.scores.filter((score) => at(score.values, head) !== null).map((score) => el("tr", {},
      el("td", {}, score.label), el("td", { class: "num" }, describe(score, head))));
    byId("pinned").replaceChildren(rows.length ? el("table", {}, el("tbody", {}, rows))
      : el("p", { class: "note" }, "No score of this head was measured."));
    say(head);
    draw();
  });
})();
