"use strict";
// The leaderboard: sort, filter, choose a metric, and compare any two models.
(() => {
  const { data, el, byId, number, bytes, floats, color, narrow, chart } = icl;
  const CHARTED = 60;
  const tables = [...document.querySelectorAll("table.board")];
  let metric = data.score;
  let group = 0;

  // Charts read a few tags and entities in their texts; names are to be shown as they are.
  const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const cut = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
  // A cell that says more at its end, why there is no circuit, shares the last rank.
  const rankText = (cell) => (cell.length > 7 ? "no circuit"
    : cell[4] === cell[5] ? `rank ${cell[4]}` : `rank ${cell[4]}–${cell[5]}`);
  const estimate = (value, error) => number(value) + (error === null ? "" : ` ± ${number(error)}`);

  // ---- sorting ----------------------------------------------------------------------------------
  function sort(table, header, direction) {
    const place = [...header.parentNode.children].indexOf(header);
    const asText = header.querySelector("button").dataset.sort === "text";
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, value: row.children[place].dataset.v }));
    const sign = direction === "ascending" ? 1 : -1;
    rows.sort((a, b) => {
      if (a.value === "" || b.value === "") return (a.value === "") - (b.value === "");
      return sign * (asText ? a.value.localeCompare(b.value) : a.value - b.value);
    });
    body.append(...rows.map(({ row }) => row));
    for (const other of header.parentNode.children) {
      if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    }
    header.setAttribute("aria-sort", direction);
    redraw();
  }
  for (const table of tables) {
    for (const button of table.tHead.querySelectorAll("button")) {
      button.addEventListener("click", () => {
        const header = button.closest("th");
        const now = header.getAttribute("aria-sort");
        // Large numbers are looked for first; names and ranks start at their beginning.
        const first = button.dataset.sort === "text" || button.textContent === "Rank"
          ? "ascending" : "descending";
        const other = first === "ascending" ? "descending" : "ascending";
        sort(table, header, now === first ? other : first);
      });
    }
  }

  // ---- filtering --------------------------------------------------------------------------------
  const UNITS = { k: 1e3, m: 1e6, b: 1e9, g: 1e9, t: 1e12 };
  function readSize(box, otherwise) {
    const text = box.value.trim().toLowerCase().replaceAll(",", "");
    const found = /^(\d+(?:\.\d*)?|\.\d+)\s*([kmbgt]?)$/.exec(text);
    box.setAttribute("aria-invalid", String(text !== "" && !found));
    return found ? parseFloat(found[1]) * (UNITS[found[2]] || 1) : otherwise;
  }
  function filter() {
    const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const from = readSize(byId("size-from"), 0);
    const to = readSize(byId("size-to"), Infinity);
    const limited = from > 0 || to < Infinity;
    let shown = 0;
    let all = 0;
    for (const table of tables) {
      const rows = data.groups[table.dataset.group].rows;
      for (const row of table.tBodies[0].rows) {
        const model = rows[row.dataset.row];
        const text = `${model.name} ${model.architecture}`.toLowerCase();
        const fits = model.parameters === null
          ? !limited : model.parameters >= from && model.parameters <= to;
        row.hidden = !(fits && words.every((word) => text.includes(word)));
        shown += !row.hidden;
        all += 1;
      }
    }
    byId("shown").textContent = `${shown} of ${all} models shown`;
    redraw();
  }
  let later = null;
  for (const id of ["filter", "size-from", "size-to"]) {
    byId(id).addEventListener("input", () => {
      clearTimeout(later);
      later = setTimeout(filter, 120);
    });
  }

  // ---- the chosen metric ------------------------------------------------------------------------
  const choice = byId("metric");
  const option = (place) => el("option", { value: place },
    `${data.columns[place].short} ${data.columns[place].arrow}`.trim());
  const places = data.columns.map((_, place) => place);
  const main = places.filter((place) => place === data.score || data.columns[place].read);
  choice.append(
    el("optgroup", { label: "Read by checks" }, main.map(option)),
    el("optgroup", { label: "Others" }, places.filter((place) => !main.includes(place)).map(option)),
  );
  choice.value = String(metric);
  choice.addEventListener("change", () => {
    metric = Number(choice.value);
    const own = metric !== data.score && !data.shown.includes(metric);
    const column = data.columns[metric];
    for (const table of tables) {
      const header = table.tHead.querySelector("th.chosen");
      header.hidden = !own;
      header.setAttribute("aria-sort", "none");
      const button = header.querySelector("button");
      button.textContent = `${column.short} ${column.arrow}`.trim();
      button.title = column.meaning;
      for (const row of table.tBodies[0].rows) {
        const cell = row.querySelector("td.chosen");
        cell.hidden = !own;
        const taken = data.groups[table.dataset.group].rows[row.dataset.row].cells[metric];
        const known = Array.isArray(taken);
        cell.dataset.v = known ? taken[0] : "";
        cell.title = known ? data.reasons[taken[6] ?? taken[7]] || "" : data.reasons[taken] || "";
        cell.replaceChildren(known ? estimate(taken[0], taken[1]) : "–");
        if (known && taken[6] !== null) {
          cell.append(el("small", {}, "† not comparable"));
        } else if (known && taken[4] !== null) {
          cell.append(el("small", {}, rankText(taken)));
        }
      }
    }
    redraw();
  });
  const groupBox = byId("group");
  if (groupBox) {
    groupBox.append(...data.groups.map((one, place) => el("option", { value: place }, one.title)));
    groupBox.addEventListener("change", () => {
      group = Number(groupBox.value);
      listModels();
      redraw();
    });
  }

  // ---- charts -----------------------------------------------------------------------------------
  function visible() { // rows of the group in the table's order
    const rows = data.groups[group].rows;
    return [...tables[group].tBodies[0].rows].filter((row) => !row.hidden)
      .map((row) => rows[row.dataset.row]);
  }
  // A number with a reason was measured in another way: it stands beside no other.
  const comparable = (row) => Array.isArray(row.cells[metric]) && row.cells[metric][6] === null;
  const why = (row) => {
    const taken = row.cells[metric];
    const place = Array.isArray(taken) ? taken[6] : taken;
    return data.reasons[place] ?? "no reason was recorded";
  };
  function measured() {
    return visible().filter(comparable);
  }
  function told(row) {
    const [value, error, low, high, best, , reason] = row.cells[metric];
    const lines = [`<b>${plain(cut(row.name, 80))}</b>`, estimate(value, error)];
    if (low !== null && high !== null) lines.push(`95% interval [${number(low)}, ${number(high)}]`);
    if (best !== null) lines.push(rankText(row.cells[metric]));
    if (reason !== null) lines.push(plain(cut(data.reasons[reason], 100)));
    return lines.join("<br>");
  }
  const bars = (rows) => ({
    type: "data", symmetric: false, thickness: 1.5, width: 3, color: color("c1"),
    array: rows.map((row) => (row.cells[metric][3] === null ? 0 : row.cells[metric][3] - row.cells[metric][0])),
    arrayminus: rows.map((row) => (row.cells[metric][2] === null ? 0 : row.cells[metric][0] - row.cells[metric][2])),
  });
  const title = () => {
    const column = data.columns[metric];
    const unit = column.unit ? `(${column.unit})` : "";
    // A second line where one would be cut off.
    return [plain(`${column.short} ${column.arrow}`), plain(unit)].join(narrow() ? "<br>" : " ");
  };
  const drawForest = chart("forest", () => {
    const rows = measured().slice(0, CHARTED);
    const places = rows.map((_, place) => place);
    return {
      traces: [{
        type: "scatter", mode: "markers", x: rows.map((row) => row.cells[metric][0]), y: places,
        error_x: bars(rows), marker: { color: color("c1"), size: 8 },
        hoverinfo: "text", hovertext: rows.map(told), showlegend: false,
      }],
      layout: {
        height: Math.max(140, 70 + 22 * rows.length),
        xaxis: { title: { text: title() } },
        yaxis: {
          tickvals: places, range: [rows.length - 0.5, -0.5], zeroline: false,
          ticktext: rows.map((row) => plain(cut(row.name, narrow() ? 16 : 44))),
        },
      },
    };
  });
  const drawScatter = chart("scatter", () => {
    const rows = measured().filter((row) => row.parameters > 0).slice(0, CHARTED);
    return {
      traces: [{
        type: "scatter", mode: "markers", x: rows.map((row) => row.parameters),
        y: rows.map((row) => row.cells[metric][0]), error_y: bars(rows),
        marker: { color: color("c1"), size: 9 },
        hoverinfo: "text", hovertext: rows.map(told), showlegend: false,
      }],
      layout: {
        height: 380,
        xaxis: { type: "log", title: { text: "parameters" }, dtick: 1, exponentformat: "SI" },
        yaxis: { title: { text: title() } },
      },
    };
  });
  function describe() {
    const all = visible();
    const rows = measured();
    const whole = data.groups[group].rows.length;
    const shown = Math.min(rows.length, CHARTED);
    const some = shown === whole ? "all models" : `${shown} of ${whole} models`;
    const column = data.columns[metric];
    const about = column.meaning ? `${column.name}: ${column.meaning}.` : `${column.name}.`;
    const unranked = column.no_rank ? ` Not ranked: ${column.no_rank}.` : "";
    byId("intervals-lead").textContent = `${about} Shown are ${some}, in the table's order.${unranked}`
      + " Each interval is that of one model; two that overlap may still differ significantly on the same tokens.";
    const unsized = rows.slice(0, CHARTED).filter((row) => !(row.parameters > 0)).length;
    byId("size-lead").textContent = `Shown are ${some}`
      + (unsized ? `, but ${unsized} of unknown size.` : ".");
    const missing = all.filter((row) => !comparable(row));
    const box = byId("missing");
    box.hidden = missing.length === 0;
    box.querySelector("summary").textContent = `Not measured, or not in the same way: ${missing.length}`;
    box.querySelector("ul").replaceChildren(...missing.map((row) => el("li", {},
      `${row.name}: ${why(row)}`)));
  }
  function redraw() {
    describe();
    drawForest();
    drawScatter();
  }

  // ---- two models -------------------------------------------------------------------------------
  const first = byId("first");
  const second = byId("second");
  const unpacked = new Map();
  function pairsOf(place) {
    if (!unpacked.has(place)) {
      const packed = data.groups[place].pairs;
      unpacked.set(place, packed && {
        difference: floats(packed.difference), half: floats(packed.half),
        centre: floats(packed.centre || packed.difference), paired: bytes(packed.paired), apart: bytes(packed.apart),
      });
    }
    return unpacked.get(place);
  }
  function difference(a, b) { // of the score, a minus b
    const pairs = pairsOf(group);
    const m = data.groups[group].ranked;
    const [i, j] = a < b ? [a, b] : [b, a];
    const place = i * m - (i * (i + 1)) / 2 + (j - i - 1);
    const sign = a < b ? 1 : -1;
    const bit = (packed) => Boolean((packed[place >> 3] >> (7 - (place & 7))) & 1);
    return {
      value: sign * pairs.difference[place], centre: sign * pairs.centre[place],
      half: pairs.half[place], paired: bit(pairs.paired), apart: bit(pairs.apart),
    };
  }
  function listModels() {
    const ranked = data.groups[group].rows.slice(0, data.groups[group].ranked);
    for (const [box, place] of [[first, 0], [second, 1]]) {
      box.replaceChildren(...ranked.map((row, index) => el("option", { value: index }, row.name)));
      box.value = String(Math.min(place, ranked.length - 1));
    }
    compare();
  }
  const signed = (value) => (value < 0 ? "−" : "+") + number(Math.abs(value));
  function answer() {
    const rows = data.groups[group].rows;
    const a = Number(first.value);
    const b = Number(second.value);
    if (data.groups[group].ranked < 2) return { text: "It takes two models with a rank." };
    if (!pairsOf(group)) return { text: "There are too many pairs for a page; neighbours are in leaderboard.json." };
    if (a === b) return { text: "Choose two different models." };
    const found = difference(a, b);
    const names = `${rows[a].name} minus ${rows[b].name}: ${signed(found.value)}`;
    if (!Number.isFinite(found.half)) {
      return { text: `${names}. Without a standard error they cannot be compared.` };
    }
    const [low, high] = [found.centre - found.half, found.centre + found.half];
    const { apart } = found;
    const better = (found.centre > 0) === (data.columns[data.score].direction === "up") ? a : b;
    const interval = found.half > 0 ? `, interval [${signed(low)}, ${signed(high)}]` : ", exactly";
    const how = found.half === 0 ? "" : found.paired
      ? " (sample by sample, on the same tokens)" : " (from both standard errors)";
    const verdict = apart ? `Significantly better: ${rows[better].name}.` : "Not significantly different.";
    return { text: `${names}${interval}${how}. ${verdict}`, found, low, high, apart };
  }
  const drawPair = chart("pair", () => {
    const { found, low, high, apart } = answer();
    const ends = found ? [low, high, 0] : [0];
    const margin = (Math.max(...ends) - Math.min(...ends)) * 0.06 || 1;
    const range = [Math.min(...ends) - margin, Math.max(...ends) + margin];
    const line = apart ? color("pass") : color("skip");
    return {
      traces: found ? [{
        type: "scatter", mode: "lines", x: [low, high], y: [0, 0], line: { color: line, width: 5 },
        hoverinfo: "x", showlegend: false,
      }, {
        type: "scatter", mode: "markers", x: [found.value], y: [0], hoverinfo: "x",
        marker: { color: line, size: 12 }, showlegend: false,
      }] : [],
      layout: {
        height: 140, xaxis: { title: { text: "difference" }, range, zeroline: true, zerolinewidth: 2 },
        yaxis: { visible: false, range: [-1, 1], fixedrange: true },
      },
    };
  });
  function compare() {
    byId("told").textContent = answer().text;
    drawPair();
  }
  first.addEventListener("change", compare);
  second.addEventListener("change", compare);

  listModels();
  filter();
})();
