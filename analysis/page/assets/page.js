"use strict";
// The charts, the colour scheme, tables that sort and filter, and the slider over reconstructions.

const charts = JSON.parse(document.getElementById("charts").textContent);
const root = document.documentElement;
root.classList.add("with-scripts");
const systemIsDark = window.matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  return root.dataset.scheme ? root.dataset.scheme === "dark" : systemIsDark.matches;
}

// Colours are chosen for paper. On a dark page those that are dark become light, in the same order of contrast.
function inScheme(colour) {
  if (!isDark() || typeof colour !== "string" || !/^#[0-9a-f]{6}$/i.test(colour)) return colour;
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16) / 255);
  const most = Math.max(r, g, b), least = Math.min(r, g, b), light = (most + least) / 2, spread = most - least;
  if (light >= 0.62) return colour;
  const saturation = spread === 0 ? 0 : spread / (1 - Math.abs(2 * light - 1));
  let hue = 0;
  if (spread > 0) {
    hue = most === r ? ((g - b) / spread) % 6 : most === g ? (b - r) / spread + 2 : (r - g) / spread + 4;
  }
  const lifted = 0.62 + 0.26 * (1 - light / 0.62);
  return `hsl(${Math.round(60 * hue + 360) % 360}, ${Math.round(85 * saturation)}%, ${Math.round(100 * lifted)}%)`;
}

const NARROW = 500, SHORT_LINE = 40;  // pixels of a chart, and letters of a line beside its points

function coloured(trace) {
  const shown = structuredClone(trace);
  for (const part of [shown.line, shown.marker, shown.error_x, shown.error_y]) {
    if (part && part.color) part.color = Array.isArray(part.color) ? part.color.map(inScheme) : inScheme(part.color);
  }
  return shown;
}

// Numbers at 1, 2 and 5 of each decade where few decades are shown, else powers of ten alone.
function logTicks(axis) {
  if (axis.type !== "log" || axis.tickvals || !axis.range) return {};
  const [low, high] = axis.range, minor = { ticks: "outside", ticklen: 3 };
  if (high - low > 1.7) return { dtick: Math.ceil((high - low) / 6), minor };
  if (high - low < 0.6) {  // few of 1, 2 and 5 of each decade lie in it: ticks as far apart as on a linear axis
    const step = (10 ** high - 10 ** low) / 4, power = 10 ** Math.floor(Math.log10(step));
    return { dtick: `L${[1, 2, 5, 10].find((part) => part * power >= step) * power}` };
  }
  return { dtick: "D2", tickformat: high > 4 ? "~s" : low < -4 ? "~e" : "~g", minor };
}

// Lines of no more letters than that, as far as words allow it; marks of bold and slanted letters do not count.
function wrapped(text, most) {
  const lengthOf = (line) => line.replace(/<[^>]*>/g, "").length;
  return text.split("<br>").map((line) => line.split(" ").reduce((whole, word) => {
    const last = whole.split("<br>").at(-1);
    return whole + (lengthOf(`${last} ${word}`) > most ? "<br>" : " ") + word;
  })).join("<br>");
}

// What the legend takes below a chart, whose entries stand in rows as wide as what lies between a chart's margins.
const LETTER = 6.6, KEY = 50, LINE = 16, GAP = 8, MARGINS = 90;
const legendWidth = (place) => Math.max(place.clientWidth - MARGINS, 150);
function legendHeight(names, width) {
  let height = 0, rowHeight = 0, filled = width;
  for (const lines of names.map((name) => name.split("<br>"))) {
    const wide = KEY + LETTER * Math.max(...lines.map((line) => line.length));
    if (filled + wide > width) [height, rowHeight, filled] = [height + rowHeight, 0, 0];
    filled += wide;
    rowHeight = Math.max(rowHeight, LINE * lines.length + GAP);
  }
  return height + rowHeight;
}

function layoutOf(panel, traces, width) {
  const style = getComputedStyle(root), of = (name) => style.getPropertyValue(name).trim();
  const axis = (own) => ({
    gridcolor: of("--grid"), linecolor: of("--muted"), zeroline: false, ticks: "outside", tickcolor: of("--muted"),
    automargin: true, exponentformat: "power", ...logTicks(own), ...own,
    title: { ...own.title, font: { size: 13 }, standoff: 8 },
  });
  const named = traces.filter((trace) => trace.name && trace.showlegend !== false);
  const below = named.length > 1 ? legendHeight(named.map((trace) => trace.name), width) : 0;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 12.5, color: of("--ink") },
    margin: { l: 48, r: 14, t: 28, b: 44 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: of("--line"), activecolor: of("--muted") }, hovermode: "closest", showlegend: named.length > 1,
    hoverlabel: { align: "left", bgcolor: of("--raised"), bordercolor: of("--line"), font: { color: of("--ink"), size: 12.5 } },
    dragmode: "zoom", uirevision: "what was zoomed stays so", ...panel.layout, height: (panel.layout.height || 330) + below,
    legend: {
      orientation: "h", x: 0, yref: "container", y: 0, yanchor: "bottom", maxheight: 1, tracegroupgap: GAP - 3,
      font: { size: 12 }, ...panel.layout.legend,
    },
    xaxis: axis(panel.layout.xaxis), yaxis: axis(panel.layout.yaxis),
  };
}

function draw(place) {
  const panel = charts[place.dataset.chart][Number(place.dataset.panel)];
  const old = place.data;  // what the legend switched stays switched
  const width = legendWidth(place), lettersInRow = Math.floor((width - KEY) / LETTER);
  const traces = panel.traces.map((trace, index) => {
    const shown = coloured(trace);
    if (shown.name) shown.name = wrapped(shown.name, lettersInRow);
    if (shown.hovertext && place.clientWidth < NARROW) shown.hovertext = shown.hovertext.map((text) => wrapped(text, SHORT_LINE));
    return old && old[index] && old[index].visible !== undefined ? { ...shown, visible: old[index].visible } : shown;
  });
  const config = {
    responsive: true, displaylogo: false, scrollZoom: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    toImageButtonOptions: { filename: place.dataset.chart, format: "svg" },
  };
  return Plotly.react(place, traces, layoutOf(panel, traces, width), config);
}

const places = [...document.querySelectorAll(".chart")];
const drawAll = () => Promise.all(places.map(draw));

// Anew for another width, which legends and tooltips are laid out for, when the window has kept it for a moment.
let drawnAt = window.innerWidth, waiting;
window.addEventListener("resize", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    if (window.innerWidth !== drawnAt) drawAll();
    drawnAt = window.innerWidth;
  }, 200);
});

const SCHEMES = ["system", "light", "dark"];
const schemeButton = document.getElementById("scheme");
schemeButton.addEventListener("click", () => {
  const next = SCHEMES[(SCHEMES.indexOf(root.dataset.scheme || "system") + 1) % SCHEMES.length];
  if (next === "system") delete root.dataset.scheme; else root.dataset.scheme = next;
  schemeButton.textContent = `scheme: ${next}`;
  drawAll();
});
systemIsDark.addEventListener("change", drawAll);
// Charts for paper are drawn while the screen's style still holds: the scheme is light until they are printed.
let schemeOnScreen;
window.addEventListener("beforeprint", () => {
  schemeOnScreen = root.dataset.scheme;
  root.dataset.scheme = "light";
  document.querySelectorAll("details").forEach((one) => { one.open = true; });
  drawAll();
});
window.addEventListener("afterprint", () => {
  if (schemeOnScreen) root.dataset.scheme = schemeOnScreen; else delete root.dataset.scheme;
  drawAll();
});

// A cell is a number where it begins with one; what has none ("–") comes last whichever way is sorted.
const NUMBER = /^[-−]?(\d[\d,]*\.?\d*|\.\d+)(e[-+]?\d+)?/i;
const FACTORS = { k: 1e3, M: 1e6, G: 1e9 };
function sortKey(cell) {
  const text = cell.textContent.trim();
  if (text.startsWith("∞")) return Infinity;
  const found = text.match(NUMBER);
  if (!found) return text === "–" || text === "" ? null : text.toLowerCase();
  const unit = text.slice(found[0].length).match(/^ ([kMG])\b/);
  return Number(found[0].replace(/,/g, "").replace("−", "-")) * (unit ? FACTORS[unit[1]] : 1);
}

function sortBy(table, column, isUp) {
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => [sortKey(row.cells[column]), row]);
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    const order = typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
    return isUp ? order : -order;
  });
  body.append(...keyed.map(([, row]) => row));
  [...table.tHead.rows[0].cells].forEach((head, index) => {
    head.setAttribute("aria-sort", index === column ? (isUp ? "ascending" : "descending") : "none");
  });
}

function filtered(table) {
  const box = document.createElement("div"), input = document.createElement("input"), told = document.createElement("span");
  box.className = "filter";
  input.type = "search";
  input.placeholder = "filter: words that a row must have";
  input.setAttribute("aria-label", "filter rows");
  const rows = [...table.tBodies[0].rows], texts = rows.map((row) => row.textContent.toLowerCase());
  const tell = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    rows.forEach((row, index) => {
      row.hidden = !words.every((word) => texts[index].includes(word));
      count += !row.hidden;
    });
    told.textContent = `${count} of ${rows.length} rows`;
  };
  input.addEventListener("input", tell);
  tell();
  box.append(input, told);
  table.closest(".wide").before(box);
}

const LEAST_ROWS = 4, SHORT = 30;
document.querySelectorAll(".wide table").forEach((table) => {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sortBy(table, column, head.getAttribute("aria-sort") !== "ascending"));
  });
  table.querySelectorAll("td").forEach((cell) => cell.classList.toggle("short", cell.textContent.length < SHORT));
  if (table.tBodies[0] && table.tBodies[0].rows.length >= LEAST_ROWS) filtered(table);
});

document.querySelectorAll(".take-print-file").forEach((link) => {
  link.href = link.closest("figure").querySelector(".print-file").src;
});

const fade = document.getElementById("fade");
if (fade) fade.addEventListener("input", () => root.style.setProperty("--faded", fade.value / 100));

drawAll().then(() => { root.dataset.drawn = "true"; });
