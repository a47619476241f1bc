"use strict";
// Line panels with their intervals, and ablations against their null.
(() => {
  const { el, byId } = icl;
  const TONES = ["c1", "c2", "c3", "c4", "c5", "c6"];
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
  const fade = (tone) => {
    return `rgba(${icl.rgb(icl.color(tone)).join(",")},0.18)`;
  };
  // A logarithmic axis has no place for 0: what was measured there is told in words.
  function beside(panel) {
    const found = panel.log ? panel.series.flatMap((line) =>
      line.x.flatMap((x, place) => (x > 0 ? [] : [`${line.name} ${icl.number(line.y[place])} at ${x}`]))) : [];
    return found.length ? `The axis is logarithmic and cannot show ${panel.x} 0: ${found.join(", ")}.` : "";
  }

  function lines(panel) {
    const traces = [];
    panel.series.forEach((line, index) => {
      const tone = TONES[index % TONES.length];
      if (line.low) {
        traces.push({ type: "scatter", x: [...line.x, ...[...line.x].reverse()], y: [...line.high, ...[...line.low].reverse()],
          fill: "toself", fillcolor: fade(tone), line: { width: 0 }, hoverinfo: "skip", showlegend: false, mode: "lines", legendgroup: line.name });
      }
      traces.push({ type: "scatter", mode: line.x.length < 40 ? "lines+markers" : "lines", name: icl.plain(line.name), x: line.x, y: line.y, legendgroup: line.name,
        line: { color: icl.color(tone), width: 2, dash: line.dash ? "dash" : DASHES[Math.floor(index / TONES.length)] },
        marker: { size: 5, symbol: index }, customdata: line.low ? line.low.map((low, i) => [low, line.high[i]]) : null,
        hovertemplate: `%{x}: %{y:.4g}${line.low ? " [%{customdata[0]:.4g}, %{customdata[1]:.4g}]" : ""}<extra>%{fullData.name}</extra>` });
    });
    const tall = window.innerWidth < 640 ? 60 : 0;
    const middle = Math.max(...panel.series.flatMap((line) => line.x)) / 2;
    return { traces, layout: {
      height: 330 + tall, showlegend: panel.series.length > 1 || !panel.title.startsWith(panel.series[0].name),
      xaxis: { title: { text: panel.x }, type: panel.log ? "log" : "linear" }, yaxis: { title: { text: panel.y } },
      shapes: panel.marks.map((mark) => ({ type: "line", x0: mark.x, x1: mark.x, yref: "paper", y0: 0, y1: 1, line: { color: icl.color("line-strong"), dash: "dot" } })),
      annotations: panel.marks.map((mark, index) => ({ x: panel.log ? Math.log10(mark.x) : mark.x, yref: "paper", y: 0.98 - 0.08 * index, text: icl.plain(mark.label), showarrow: false,
        xanchor: panel.log || mark.x > middle ? "right" : "left", font: { size: 11, color: icl.color("soft") } })),
    } };
  }

  for (const section of ["copying", "training", "behaviour"]) {
    const box = byId(`${section}-panels`), data = icl.data[section];
    if (!box || !data) continue;
    for (const panel of data.panels) {
      const words = panel.series.map((line) =>
        `${line.name}: from ${icl.number(line.y[0])} to ${icl.number(line.y[line.y.length - 1])}`).join("; ");
      const chart = el("div", { class: "chart", role: "img", "aria-label": `${panel.title}. ${words}.` });
      const bands = [...new Set(panel.series.map((line) => line.band).filter(Boolean))];
      box.append(el("div", { class: "panel" }, el("h3", {}, panel.title), chart,
        el("p", { class: "note" }, [bands.length ? `Bands: ${bands.join(", ")}.` : "", beside(panel)].join(" ").trim())));
      icl.chart(chart, () => lines(panel));
    }
  }

  const copying = icl.data.copying;
  (copying ? copying.nulls : []).forEach((found, index) => {
    if (!found) return;
    const everything = [found.observed, ...Object.values(found.draws).flat()];
    icl.chart(`null-${index}`, () => ({
      traces: Object.entries(found.draws).map(([name, values], place) => ({ type: "histogram", x: values, name: icl.plain(name), nbinsx: 24,
        marker: { color: icl.color(TONES[place]) }, opacity: 0.75, hovertemplate: "%{x}: %{y} draws<extra></extra>" })),
      layout: { height: 240, barmode: "overlay", showlegend: true, bargap: 0.05,
        xaxis: { title: { text: "loss ratio" }, range: [Math.min(0, ...everything), 1.08 * Math.max(...everything)] }, yaxis: { title: { text: "draws" } },
        shapes: [{ type: "line", x0: found.observed, x1: found.observed, yref: "paper", y0: 0, y1: 1, line: { color: icl.color("c2"), width: 3 } }],
        annotations: [{ x: found.observed, yref: "paper", y: 0.95, text: "chosen heads", showarrow: false, xanchor: "right", font: { color: icl.color("ink") } }] },
    }));
  });
})();
