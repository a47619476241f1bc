"use strict";
// Break it: every combination of switches was measured; this looks the numbers up.
(() => {
  const { el, byId, number, plain, isolate, showToken: shown } = icl;
  const panel = icl.data.switches;
  if (!panel) return;
  const BARS = 7;
  const cut = (text) => (text.length > 24 ? `${text.slice(0, 23)}…` : text); // Beside a bar; whole when it is hovered over.
  const key = (off) => [...off].sort((a, b) => a - b).join(",");
  const rows = new Map(panel.rows.map((row) => [key(row.off), row]));
  const clean = rows.get("");
  if (!clean) {
    byId("switch-tiles").append(el("p", {}, "The model with nothing off was not measured, so there is nothing to compare with."));
    document.querySelector("#switches .two").remove();
    return;
  }
  const off = new Set();
  const current = () => rows.get(key(off));

  const toggles = panel.switches.map((one) => {
    const button = el("button", { type: "button", class: "toggle", role: "switch", "aria-checked": "true",
      "data-switch": one.switch, "data-role": one.role, onclick: () => {
        if (off.has(one.switch)) off.delete(one.switch); else off.add(one.switch);
        show();
      } }, el("i", { "aria-hidden": "true" }), el("span", {}, one.label, el("br"),
        el("small", {}, one.heads.slice(0, 8).join(", ") + (one.heads.length > 8 ? " …" : ""))));
    byId("toggles").append(button);
    return button;
  });

  const asked = byId("asked");
  const before = new Map(); // position -> the text up to it
  const tokens = icl.data.example ? icl.data.example.tokens : [];
  for (const one of clean.predictions || []) {
    const text = tokens.slice(Math.max(one.position - 2, 0), one.position + 1).map((token) => shown(token.token)).join(" ");
    before.set(String(one.position), text);
    asked.append(el("option", { value: one.position }, `… ${isolate(text)} (${one.position})`));
  }
  if (asked.options.length) asked.selectedIndex = asked.options.length - 1;
  if (asked.options.length > 1) { // The last one that has an answer to compare with tells most.
    const known = (clean.predictions || []).filter((one) => one.next);
    if (known.length) asked.value = known[known.length - 1].position;
  }
  asked.addEventListener("change", show);

  const tile = (value, interval, words) => el("div", { class: "tile" }, el("b", {}, value),
    interval ? el("span", { class: "mono" }, interval + " ") : null, el("span", {}, words));
  const interval = (row, name) => row[`${name}_ci_low`] === undefined ? ""
    : `[${number(row[`${name}_ci_low`])}, ${number(row[`${name}_ci_high`])}]`;

  function tiles() {
    const row = current();
    if (!row) return [el("p", {}, "This combination was not measured.")];
    const made = [
      tile(number(row.repeated_loss), interval(row, "repeated_loss"), `nats on the repeats (clean ${number(clean.repeated_loss)})`),
      tile(number(row.first_loss), interval(row, "first_loss"), `nats on the first copy (clean ${number(clean.first_loss)})`),
      tile(`× ${number(row.repeated_loss / clean.repeated_loss)}`, "", `loss on the repeats; ${row.heads} head${row.heads === 1 ? "" : "s"} off`),
    ];
    if (panel.random.length) {
      const worst = Math.max(...panel.random.map((draw) => draw.repeated_loss));
      made.push(tile(number(worst), "", `nats on the repeats at worst, of ${panel.random.length} draws of random heads, as many as all induction switches hold`));
    }
    return made;
  }

  const losses = icl.chart("switch-losses", () => {
    const row = current();
    const line = (name, from, tone, dash) => ({ type: "scatter", mode: "lines", name,
      x: from.loss_by_position.map((_, index) => index + 1), y: from.loss_by_position,
      line: { color: icl.color(tone), width: 2, dash }, hovertemplate: "%{x}: %{y:.3f} nats<extra>" + name + "</extra>" });
    const traces = [line("clean", clean, "c1", "solid")];
    if (row && off.size) traces.push(line("switched", row, "c2", "dash"));
    return { traces, layout: { height: 300, xaxis: { title: { text: "position" } }, yaxis: { title: { text: "loss (nats)" }, rangemode: "tozero" },
      shapes: panel.period ? [{ type: "line", x0: panel.period, x1: panel.period, yref: "paper", y0: 0, y1: 1, line: { color: icl.color("line-strong"), dash: "dot" } }] : [] } };
  });

  // The token that the text goes on with, always, and the likeliest others, from the smallest on.
  function likeliest(a, b, answer) {
    const larger = (name) => Math.max(a.get(name) ?? 0, b.get(name) ?? 0);
    const ranked = [...new Set([...a.keys(), ...b.keys()])].sort((x, y) => larger(y) - larger(x));
    const others = ranked.filter((name) => name !== answer).slice(0, answer === null ? BARS : BARS - 1);
    return ranked.filter((name) => name === answer || others.includes(name)).reverse();
  }

  const top = icl.chart("switch-top", () => {
    const find = (row) => row && (row.predictions || []).find((one) => String(one.position) === asked.value);
    const intact = find(clean), after = find(current());
    if (!intact) return { traces: [], layout: { annotations: [{ text: "no prediction was kept", showarrow: false }] } };
    const shares = (one) => { // Two tokens may read alike: each has a bar of its own.
      const found = new Map();
      for (const [text, share] of one ? one.top : []) {
        let name = text;
        while (found.has(name)) name += "′";
        found.set(name, share);
      }
      if (one && one.next && !found.has(one.next[0])) found.set(...one.next);
      return found;
    };
    const a = shares(intact), b = shares(after);
    const names = likeliest(a, b, intact.next ? intact.next[0] : null);
    const labels = names.map((name) => plain(cut(shown(name))) + (intact.next && name === intact.next[0] ? " ◂" : ""));
    const bar = (name, from, tone, pattern) => ({ type: "bar", orientation: "h", name, y: names.map((_, i) => i), x: names.map((n) => from.get(n) ?? 0),
      marker: { color: icl.color(tone), pattern: { shape: pattern } }, text: names.map((n) => (from.has(n) ? number(from.get(n)) : "below its top 5")),
      customdata: names.map((n) => plain(shown(n))), hovertemplate: "%{customdata}: %{text}<extra>" + name + "</extra>", textposition: "none" });
    const traces = [bar("clean", a, "c1", "")];
    if (off.size && after) traces.unshift(bar("switched", b, "c2", "/"));
    return { traces, layout: { height: 300, barmode: "group", xaxis: { title: { text: "probability<br>◂ what the text goes on with" }, range: [0, 1] },
      yaxis: { tickvals: names.map((_, i) => i), ticktext: labels }, legend: { orientation: "h", y: 1.02, yanchor: "bottom", traceorder: "reversed" } } };
  });

  function show() {
    // What was chosen is said in words too: paper shows neither switches nor the select.
    const named = panel.switches.filter((one) => off.has(one.switch)).map((one) => one.label);
    byId("switch-off").textContent = `Off: ${named.join(", ") || "nothing"}`;
    if (before.has(asked.value)) {
      byId("asked-told").replaceChildren("after … ", el("bdi", {}, before.get(asked.value)), ` (${asked.value})`);
    }
    panel.switches.forEach((one, index) => toggles[index].setAttribute("aria-checked", String(!off.has(one.switch))));
    byId("switch-tiles").replaceChildren(...tiles());
    losses();
    top();
  }
  show();
})();
