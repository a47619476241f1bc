"use strict";
// The worked example: step through a text and see which position each head reads.
(() => {
  const { el, byId, number, plain, pins, rgb, showToken: shown } = icl;
  const example = icl.data.example;
  // The strongest induction head is pinned to begin with; without such a score, the map's strongest.
  const first = () => {
    const heads = icl.data.heads;
    if (!heads) return null;
    let best = null;
    const score = heads.scores.find((one) => one.name === "induction") || heads.scores[0];
    score.values.forEach((row, layer) => row.forEach((value, head) => {
      if (value !== null && (!best || value > best.value)) best = { layer, head, value };
    }));
    return best && { layer: best.layer, head: best.head };
  };
  if (!example) { pins.pin(first()); return; }

  const tokens = example.tokens, size = tokens.length;
  const decoded = new Map();
  function pattern(name) { // Bytes of the lower triangle, row by row, to rows of shares.
    if (!decoded.has(name)) {
      const packed = example.patterns[name];
      let rows = null;
      if (packed) {
        const bytes = icl.bytes(packed);
        rows = [];
        for (let query = 0, from = 0; query < size; from += ++query) {
          rows.push(Array.from(bytes.subarray(from, from + query + 1), (byte) => byte / 255));
        }
      }
      decoded.set(name, rows);
    }
    return decoded.get(name);
  }

  // ---- choosing a head --------------------------------------------------------------------------
  const choice = byId("example-head");
  const circuit = new Set(example.circuit.map((one) => one.head));
  const words = { induction: "induction", previous_token: "previous token" };
  for (const one of example.circuit) {
    choice.append(el("option", { value: one.head }, `${one.head} (${words[one.role]})`));
  }
  const others = el("optgroup", { label: "every other head" });
  for (const name of Object.keys(example.patterns)) {
    if (!circuit.has(name)) others.append(el("option", { value: name }, name));
  }
  if (others.children.length) choice.append(others);
  choice.addEventListener("change", () => pins.pin(pins.parse(choice.value)));

  // ---- the text -----------------------------------------------------------------------------------
  const list = byId("tokens");
  const repeats = tokens.filter((token) => token.source !== undefined).map((token) => token.position);
  // Where the text goes on as it did before is where the circuit has something to say.
  const copies = repeats.filter((position) => tokens[position + 1]
    && tokens[position + 1].token === tokens[tokens[position].source].token);
  let now = copies[0] ?? repeats[0] ?? size - 1;
  const boxes = tokens.map((token) => {
    const box = el("span", { class: "token", role: "option", id: `token-${token.position}`,
      onclick: () => go(token.position) }, el("bdi", {}, shown(token.token)), el("small", {}));
    list.append(box);
    return box;
  });
  function go(position) {
    now = Math.min(Math.max(position, 0), size - 1);
    show();
  }
  byId("step-back").addEventListener("click", () => go(now - 1));
  byId("step-on").addEventListener("click", () => go(now + 1));
  byId("step-repeat").addEventListener("click", () =>
    go(repeats.find((position) => position > now) ?? repeats[0] ?? now));
  list.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 };
    if (event.key === "Home") go(0);
    else if (event.key === "End") go(size - 1);
    else if (moves[event.key]) go(now + moves[event.key]);
    else return;
    event.preventDefault();
  });

  const told = (position) => el("bdi", {}, shown(tokens[position].token));
  const most = (row) => row.reduce((best, value, index) => (value > row[best] ? index : best), 0);
  function reads(name, role) {
    const rows = pattern(name);
    if (!rows) return null;
    const row = rows[now], best = most(row), token = tokens[now];
    const wanted = role === "induction" ? token.source : role === "previous_token" && now > 0 ? now - 1 : undefined;
    const hit = wanted === undefined ? "" : best === wanted ? "✓ as the theory says"
      : ["theory: ", told(wanted), ` (${wanted}), which gets ${number(row[wanted], 2)}`];
    return el("tr", {}, el("td", {}, el("button", { type: "button", class: "pin mono", "data-head": name, onclick: () => pins.pin(pins.parse(name)) }, name)),
      el("td", {}, words[role] || ""), el("td", { class: "mono" }, told(best), ` (${best})`),
      el("td", { class: "num" }, number(row[best], 2)), el("td", {}, hit));
  }

  function sentence(name) {
    const token = tokens[now], parts = [];
    parts.push(`Position ${now}: `, told(now), ". ");
    if (token.source !== undefined) {
      parts.push(`It stood at position ${token.repeats_at} before, and `, told(token.source),
        ` followed (position ${token.source}): that is what an induction head reads here. `);
      const row = pattern(name);
      if (row) parts.push(`Head ${name} gives it ${number(row[now][token.source], 2)} of its attention. `);
    } else {
      parts.push("It did not occur before, so there is nothing to copy from. ");
    }
    const next = tokens[now + 1];
    if (next && next.probability !== undefined) {
      parts.push("The model gives the token that comes next, ", told(now + 1), `, a probability of ${number(next.probability)}.`);
    }
    return parts;
  }

  // WCAG's relative luminance. At 0.179 black and white are equally legible, at a contrast of 4.58.
  const luminance = (tone) => tone.map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
  function shade(share) {
    if (share < 0.004) return { background: "", color: "" };
    const full = icl.isDark() ? [86, 180, 233] : [0, 114, 178], part = 0.06 + 0.84 * share;
    const tone = rgb(icl.color("card")).map((under, place) => Math.round(under + part * (full[place] - under)));
    return { background: `rgb(${tone.join(", ")})`, color: luminance(tone) > 0.179 ? "#000" : "#fff" };
  }
  function show() {
    const name = pins.name(pins.get());
    const rows = pattern(name), row = rows ? rows[now] : null, token = tokens[now];
    boxes.forEach((box, position) => {
      const share = row && position <= now ? row[position] : 0;
      Object.assign(box.style, shade(share));
      box.classList.toggle("now", position === now);
      box.classList.toggle("source", position === token.source);
      box.classList.toggle("later", position > now);
      box.setAttribute("aria-selected", String(position === now));
      box.lastChild.textContent = share >= 0.05 ? share.toFixed(2) : "";
    });
    list.setAttribute("aria-activedescendant", `token-${now}`);
    byId("told").replaceChildren(...sentence(name));
    byId("reads-from").replaceChildren(`position ${now}, `, told(now));
    const lines = example.circuit.map((one) => reads(one.head, one.role)).filter(Boolean);
    if (name && !circuit.has(name)) lines.push(reads(name, ""));
    const focused = byId("reads").contains(document.activeElement) ? document.activeElement.dataset.head : null;
    byId("reads").replaceChildren(el("table", {}, el("thead", {}, el("tr", {},
      ...["Head", "Kind", "Reads most", "Attention", ""].map((text) => el("th", { scope: "col", class: text === "Attention" ? "num" : null }, text)))),
      el("tbody", {}, lines.filter(Boolean))));
    // The rows are new; whoever was at one of their buttons stays there.
    for (const button of byId("reads").querySelectorAll("button")) {
      if (button.dataset.head === focused) button.focus();
    }
    draw();
  }

  // ---- the whole pattern ----------------------------------------------------------------------------
  const draw = icl.chart("pattern", () => {
    const rows = pattern(pins.name(pins.get()));
    if (!rows) return { traces: [], layout: { annotations: [{ text: "no pattern was kept of this head", showarrow: false }] } };
    const names = tokens.map((token) => `${token.position} ${shown(token.token)}`.slice(0, 16));
    const full = rows.map((row) => [...row, ...Array(size - row.length).fill(null)]);
    const text = full.map((row, query) => row.map((value, key) =>
      `from ${plain(names[query])}<br>to ${plain(names[key])}<br><b>${value === null ? "" : number(value)}</b>`));
    return {
      traces: [{ type: "heatmap", z: full, text, hovertemplate: "%{text}<extra></extra>", hoverongaps: false,
        zmin: 0, zmax: 1, colorscale: "Cividis", colorbar: { thickness: 10, outlinewidth: 0 } }],
      layout: { height: 380, dragmode: false,
        shapes: [{ type: "rect", x0: -0.5, x1: size - 0.5, y0: now - 0.5, y1: now + 0.5, line: { color: icl.color("c2"), width: 2 } }],
        xaxis: { tickvals: tokens.map((_, i) => i), ticktext: names.map(plain), tickangle: -60, tickfont: { size: 9 }, showgrid: false, zeroline: false, title: { text: "reads" } },
        yaxis: { tickvals: tokens.map((_, i) => i), ticktext: names.map(plain), tickfont: { size: 9 }, autorange: "reversed", showgrid: false, zeroline: false } },
    };
  });
  icl.onTheme(show);

  pins.on((head) => {
    const name = pins.name(head);
    byId("pattern-name").textContent = name;
    if (![...choice.options].some((option) => option.value === name)) {
      choice.append(el("option", { value: name }, `${name} (its pattern was not kept)`));
    }
    choice.value = name;
    show();
  });
  const start = example.circuit.find((one) => one.role === "induction") || example.circuit[0];
  pins.pin(start ? pins.parse(start.head) : first());
  show();
})();
