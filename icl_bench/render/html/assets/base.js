"use strict";
// What every page shares: the embedded data, the theme, the charting script, making elements.
const icl = (() => {
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("icl-data").textContent);

  // ---- making elements: text is always text, never markup -------------------------------------
  const SVG = "http://www.w3.org/2000/svg";
  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children.flat()) {
      if (child !== null && child !== undefined) node.append(child);
    }
    return node;
  }
  const el = (tag, attributes, ...children) =>
    fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, ...children) =>
    fill(document.createElementNS(SVG, tag), attributes, children);
  const byId = (id) => document.getElementById(id);

  // ---- numbers, as render/numbers.py writes them ----------------------------------------------------------------------------------
  function number(value, digits = 3) {
    if (value === null || value === undefined) return "not measured";
    if (Number.isInteger(value) && Math.abs(value) < 1e7) return String(value);
    const size = Math.abs(value);
    if (size < 1e-4 || size >= 1e6) return value.toExponential(Math.max(digits - 2, 1));
    let decimals = size < 1 ? digits - 1 - Math.floor(Math.log10(size)) : digits - 1;
    if (size >= 100) decimals -= size < 1000 ? 1 : decimals;
    const text = value.toFixed(Math.max(decimals, 0));
    return text.includes(".") && Math.abs(Number(text) - value) <= 1e-9 * size
      ? text.replace(/0+$/, "").replace(/\.$/, "") : text;
  }

  // What render/html/packing.py packed: bytes, float32 numbers, or a grid of them in rows of `width`
  // with null where there is no number.
  const bytes = (packed) => Uint8Array.from(atob(packed), (sign) => sign.charCodeAt(0));
  const floats = (packed) => new Float32Array(bytes(packed).buffer);
  function grid(packed, width) {
    const rows = [];
    floats(packed).forEach((value, at) => {
      if (at % width === 0) rows.push([]);
      rows[rows.length - 1].push(Number.isNaN(value) ? null : Number(value.toPrecision(6)));
    });
    return rows;
  }

  // Plotly reads a few HTML tags in names, labels and hover texts.
  const plain = (text) =>
    String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  // A token so that one sees where it begins and ends.
  const showToken = (text) =>
    text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "·").replace(UNSEEN, escape) || "∅";
  // What has no shape, or turns the direction of its surroundings, is shown by its number.
  const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;
  const escape = (sign) => {
    const code = sign.codePointAt(0).toString(16);
    return code.length > 4 ? `\\u{${code}}` : `\\u${code.padStart(4, "0")}`;
  };
  // Text that is written from the right leaves its surroundings alone: <bdi>, where no element may be.
  const isolate = (text) => `\u2068${text}\u2069`;

  // ---- theme --------------------------------------------------------------------------------------
  const themed = [];
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const remember = { // A page opened from a mail may not keep anything.
    get: () => { try { return localStorage.getItem("icl-theme"); } catch { return null; } },
    set: (value) => { try { localStorage.setItem("icl-theme", value); } catch { /* not kept */ } },
  };
  const isDark = () => (root.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
  function setTheme(name) {
    root.dataset.theme = name;
    for (const draw of themed) draw();
  }
  const kept = remember.get();
  if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  dark.addEventListener("change", () => themed.forEach((draw) => draw()));
  byId("theme").addEventListener("click", () => {
    const next = isDark() ? "light" : "dark";
    remember.set(next);
    setTheme(next);
  });
  // Paper is white and narrow: charts are drawn light and at a page's width, then as they were.
  let chosen;
  window.addEventListener("beforeprint", () => {
    if (root.dataset.paper) return;
    chosen = root.dataset.theme;
    root.dataset.paper = "yes";
    setTheme("light");
  });
  window.addEventListener("afterprint", () => {
    if (!root.dataset.paper) return;
    delete root.dataset.paper;
    if (chosen) root.dataset.theme = chosen; else delete root.dataset.theme;
    for (const draw of themed) draw();
    window.dispatchEvent(new Event("resize")); // The charts take their places' widths again.
  });
  const rgb = (hex) => [1, 3, 5].map((place) => parseInt(hex.slice(place, place + 2), 16));
  const color = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  // ---- charts -------------------------------------------------------------------------------------
  let charting = null;
  const waiting = [];
  function ready() {
    charting = window.Plotly || null;
    root.dataset.charts = charting ? "ready" : "missing";
    waiting.splice(0).forEach((draw) => draw());
  }
  async function unpack(packed) {
    const stream = new Blob([bytes(packed)]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }
  const missing = () => {
    const file = byId("icl-plotly-file");
    return file ? `The charting script did not load: it is looked for at ${file.getAttribute("src")}. "icl-bench report" writes pages that carry it, and puts it there with --plotly=shared.`
      : "The charting script did not load: this browser is too old to unpack it.";
  };
  const packed = byId("icl-plotly");
  if (packed) {
    unpack(packed.textContent).catch((error) => console.warn("charts:", error)).finally(ready);
  }

  const narrow = () => window.innerWidth < 640;
  // A finger: no toolbar, which would stay over the data; elsewhere it has a strip of its own.
  const touch = window.matchMedia("(pointer: coarse)").matches;
  function layout(extra) {
    const axis = {
      gridcolor: color("line"), zerolinecolor: color("line-strong"), linecolor: color("line-strong"),
      automargin: true, title: { standoff: 8 },
    };
    const { xaxis, yaxis, ...rest } = extra || {};
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: color("ink") },
      colorway: ["c1", "c2", "c3", "c4", "c5", "c6"].map(color),
      hoverlabel: { bgcolor: color("card"), bordercolor: color("line-strong"), align: "left",
        font: { color: color("ink") } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: color("soft"), activecolor: color("accent") },
      margin: { l: 8, r: 8, t: touch ? 12 : 28, b: 8 }, hovermode: "closest", height: 320,
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, xanchor: "left" },
      dragmode: narrow() ? false : "zoom",
      xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis },
      ...rest,
    };
  }
  const CONFIG = { responsive: true, displaylogo: false, displayModeBar: touch ? false : "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };

  // Draws into the element now, when the script is there, and again whenever the theme changes.
  // `make` returns {traces, layout}; returns a function that draws anew.
  function chart(target, make) {
    const box = typeof target === "string" ? byId(target) : target;
    if (!box) return () => {};
    const draw = () => {
      if (charting === null) {
        if (root.dataset.charts === "missing") box.replaceChildren(el("p", { class: "note" },
          `${missing()} ${root.dataset.numbers}`));
        else if (!waiting.includes(draw)) waiting.push(draw);
        return Promise.resolve();
      }
      const made = make();
      // A chart that is there already measures its place anew only when the window changes.
      const width = root.dataset.paper ? { width: box.clientWidth } : {};
      return charting.react(box, made.traces, layout({ ...made.layout, ...width }), CONFIG).then(() => {
        box.dataset.drawn = "yes";
      });
    };
    themed.push(draw);
    draw();
    return draw;
  }

  return { data, el, svg, byId, number, bytes, floats, grid, plain, showToken, isolate, color, rgb, isDark, narrow, chart, onTheme: (f) => themed.push(f),
    plotlyShared: ready };
})();
