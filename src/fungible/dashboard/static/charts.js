// The two charts. Colours come from the style sheet, so light and dark are decided in one place.

import { el, $, emptied, keyed, set } from "./dom.js";
import { NONE, clock, money, moneyTick, plain, rate } from "./format.js";

const { echarts } = window;
const dark = matchMedia("(prefers-color-scheme: dark)");
let palette = [];
const slots = new Map();
const charts = {};
let unit = "requests";
let latest = null;

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function readPalette() {
  palette = Array.from({ length: 8 }, (_, index) => css(`--series-${index + 1}`));
}

/** A backend keeps its colour for as long as the page is open. */
export function colour(name) {
  if (!slots.has(name)) slots.set(name, slots.size);
  return palette[slots.get(name) % palette.length];
}

export function startCharts() {
  readPalette();
  for (const id of ["traffic", "cost"]) charts[id] = echarts.init($(`chart-${id}`));
  const resize = new ResizeObserver(() => Object.values(charts).forEach((chart) => chart.resize()));
  resize.observe($("chart-traffic"));
  resize.observe($("chart-cost"));
  dark.addEventListener("change", () => {
    readPalette();
    redraw();
  });
  for (const name of ["requests", "tokens"]) {
    $(`unit-${name}`).addEventListener("click", () => {
      unit = name;
      for (const other of ["requests", "tokens"]) $(`unit-${other}`).setAttribute("aria-pressed", String(other === unit));
      redraw();
    });
  }
}

function redraw() {
  if (latest) showCharts(latest);
}

export function showCharts(snapshot) {
  latest = snapshot;
  // Colours are given out in the order of the configuration, not of first traffic.
  snapshot.backends.forEach((row) => colour(row.name));
  const { series, currency } = snapshot;
  const names = snapshot.backends.map((row) => row.name).filter((name) => series.backends[name]);
  const field = unit === "requests" ? "requests_per_s" : "tokens_per_s";
  const label = unit === "requests" ? "req/s" : "tok/s";
  const busy = names.filter((name) => series.backends[name][field].some((value) => value > 0));
  const priced = names.filter((name) => series.backends[name].cost_per_mtok.some((value) => value !== null));
  draw("traffic", series, busy, (name) => series.backends[name][field], {
    area: true, axis: (value) => plain(value), tip: (value) => rate(value, label),
  });
  draw("cost", series, priced, (name) => series.backends[name].cost_per_mtok, {
    area: false, axis: (value) => moneyTick(value, currency), tip: (value) => money(value, currency),
  });
  legend("traffic", busy, (name) => rate(series.backends[name][field].at(-1) ?? 0, label));
  legend("cost", priced, (name) => money(series.backends[name].cost_per_mtok.at(-1), currency));
  showEmpty(snapshot, busy, priced);
}

function showEmpty(snapshot, busy, priced) {
  const idle = snapshot.totals.attempts === 0 ? "No traffic yet. Send one request with:" : "No traffic in the last 10 minutes. Send one request with:";
  emptied($("empty-traffic"), [$("chart-traffic"), $("legend-traffic")], busy.length ? "" : idle, snapshot.try_it);
  const unpriced = snapshot.totals.unpriced > 0 && snapshot.totals.unpriced === snapshot.totals.attempts;
  const why = unpriced
    ? "Nothing is priced. Name a price sheet in fungible.toml: [ledger] prices = \"prices.csv\"."
    : "Cost appears with the first priced answers.";
  emptied($("empty-cost"), [$("chart-cost"), $("legend-cost")], priced.length ? "" : why);
}

function draw(id, series, names, valuesOf, { area, axis, tip }) {
  const ink = css("--muted");
  const line = css("--line");
  const tipOf = (items) => tooltip(items, tip, names.map((name) => valuesOf(name)));
  charts[id].setOption({
    animation: false,
    grid: { left: 4, right: 10, top: 10, bottom: 2, outerBoundsMode: "same", outerBoundsContain: "axisLabel" },
    tooltip: {
      trigger: "axis", confine: true, transitionDuration: 0, padding: [6, 9],
      backgroundColor: css("--panel"), borderColor: line, textStyle: { color: css("--ink"), fontSize: 12 },
      axisPointer: { lineStyle: { color: ink, type: "solid", width: 1 } }, formatter: tipOf,
    },
    xAxis: {
      type: "time", min: series.at_ms[0], max: series.at_ms.at(-1), splitNumber: 5,
      axisLine: { lineStyle: { color: line } }, axisTick: { show: false },
      axisLabel: { color: ink, fontSize: 11, hideOverlap: true, formatter: (value) => clock(value).slice(0, 5) },
    },
    yAxis: {
      type: "value", min: 0, splitNumber: 3, axisLabel: { color: ink, fontSize: 11, formatter: axis },
      splitLine: { lineStyle: { color: line } },
    },
    series: names.map((name) => ({
      id: name, name, type: "line", symbol: "none", color: colour(name), stack: area ? "all" : undefined,
      lineStyle: { width: area ? 1 : 1.8 }, areaStyle: area ? { opacity: 0.45 } : undefined,
      emphasis: { disabled: true },
      data: series.at_ms.map((at, index) => [at, toPixel(valuesOf(name)[index])]),
    })),
  }, { replaceMerge: ["series"] });
}

function toPixel(value) {
  return value === null ? null : Number(value);
}

/** Built from nodes, not markup: names of backends come from a configuration file. */
function tooltip(items, tip, values) {
  const box = el("div", "tip");
  if (items.length) box.append(el("b", "", clock(items[0].value[0])));
  for (const item of [...items].reverse()) {
    const row = el("div");
    const dot = el("i", "swatch");
    dot.style.background = colour(item.seriesName);
    const value = values[item.seriesIndex]?.[item.dataIndex];
    row.append(dot, el("span", "", item.seriesName), el("b", "", value === null || value === undefined ? NONE : tip(value)));
    box.append(row);
  }
  return box;
}

function legend(id, names, textOf) {
  keyed($(`legend-${id}`), names, (name) => name, (name) => {
    const item = el("li");
    item.append(el("i", "swatch"), el("span", "", name), el("b"));
    return item;
  }, (item, name) => {
    item.firstChild.style.background = colour(name);
    set(item.lastChild, textOf(name));
  });
}
