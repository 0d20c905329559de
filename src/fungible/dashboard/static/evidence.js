// Why traffic may move: verdicts with their numbers, migrations with their evidence.

import { $, attr, el, emptied, keyed, set } from "./dom.js";
import { ago, clock, percent, plain, points, words } from "./format.js";

const chosen = new Map();

export function showVerdicts({ verdicts, at_ms: now }) {
  keyed($("verdicts"), verdicts, (card) => card.verdict_id, verdictCard, (node, card) => {
    set(node.querySelector("time"), ago(card.decided_ms, now));
  });
  const what = "No verdict yet. Ask for one with: fungible eval run --backend CANDIDATE.";
  emptied($("empty-verdicts"), [$("verdicts")], verdicts.length ? "" : what);
}

function verdictCard(card) {
  const node = el("article", "verdict");
  const head = el("h3");
  head.append(el("span", `badge o-${card.outcome}`, card.outcome), el("span", "who", card.candidate), el("span", "dim", `vs ${card.reference}`), el("time", "dim"));
  node.append(head, scoreLine(card), lossBar(card));
  for (const reason of card.reasons) node.append(el("p", "reason", reason));
  const numbers = Object.entries(card.metrics);
  if (numbers.length) {
    const more = el("details");
    more.append(el("summary", "", `${numbers.length} numbers behind it`), facts(numbers));
    node.append(more);
  }
  return node;
}

function scoreLine(card) {
  const text = `score ${percent(card.candidate_score, 1)} against ${percent(card.reference_score, 1)} on ${card.items} items of ${card.suite}`;
  return el("p", "dim", text);
}

/** From no loss to twice the margin: the bound must stay left of the margin's mark. */
function lossBar(card) {
  if (card.loss_upper === null) return el("p", "dim", "no bound on the loss");
  const wide = Math.max(card.margin * 2, card.loss_upper, 1e-9) * 1.05;
  const box = el("div", "loss");
  const track = el("div", "track");
  const fill = el("i", card.loss_upper <= card.margin ? "held" : "lost");
  fill.style.width = `${(Math.max(card.loss_upper, 0) / wide) * 100}%`;
  const mark = el("u");
  mark.style.left = `${(card.margin / wide) * 100}%`;
  track.append(fill, mark);
  const text = `loss at most ${points(card.loss_upper)} (95 %), allowed ${points(card.margin)}`;
  box.append(track, el("span", "", text.replaceAll("+", "")));
  return box;
}

function facts(pairs) {
  const list = el("dl", "facts");
  for (const [name, value] of pairs) {
    const pair = el("div");
    pair.append(el("dt", "", words(name)), el("dd", "", plain(value)));
    list.append(pair);
  }
  return list;
}

export function showMigrations({ migrations, at_ms: now }) {
  keyed($("migrations"), migrations, (item) => item.migration_id, migrationBlock, (node, item) => {
    const last = item.edges.at(-1);
    set(node.querySelector(".badge"), words(last.to_state), `badge s-${tone(last)}`);
    set(node.querySelector("time"), ago(last.at_ms, now));
    keyed(node.querySelector("ol"), item.edges.map((edge, index) => ({ ...edge, index })), (edge) => String(edge.index), (edge) => step(node, item.migration_id, edge), () => {});
    const at = chosen.get(item.migration_id) ?? item.edges.length - 1;
    choose(node, item.edges[at] ?? last, at);
  });
  const what = "No migration yet. Start one with: fungible migrate start MODEL CANDIDATE.";
  emptied($("empty-migrations"), [$("migrations")], migrations.length ? "" : what);
}

function migrationBlock(item) {
  const node = el("article", "migration");
  const head = el("h3");
  head.append(el("span", "badge"), el("span", "who", `${item.model}: ${item.reference} → ${item.candidate}`), el("time", "dim"));
  const steps = el("ol", "steps");
  steps.tabIndex = 0;
  const detail = el("div", "detail");
  detail.setAttribute("aria-live", "polite");
  node.append(head, steps, detail);
  return node;
}

function step(node, id, edge) {
  const item = el("li", `s-${tone(edge)}`);
  const button = el("button");
  button.type = "button";
  button.title = edge.reason;
  const share = edge.weight > 0 ? ` · ${percent(edge.weight)}` : "";
  button.append(el("i"), el("b", "", words(edge.to_state)), el("small", "", clock(edge.at_ms) + share));
  button.addEventListener("click", () => {
    chosen.set(id, edge.index);
    choose(node, edge, edge.index);
  });
  item.append(button);
  return item;
}

function choose(node, edge, at) {
  node.querySelectorAll(".steps button").forEach((button, index) => attr(button, "aria-pressed", String(index === at)));
  const detail = node.querySelector(".detail");
  const key = `${at} ${edge.at_ms}`;
  if (detail.dataset.key === key) return;
  detail.dataset.key = key;
  const route = edge.route_version ? ` · route table v${edge.route_version}` : "";
  const reason = edge.reason || "no reason was recorded";
  detail.replaceChildren(el("p", "", `${words(edge.from_state)} → ${words(edge.to_state)}: ${reason}${route}`), facts(Object.entries(edge.evidence)));
}

function tone({ to_state: state }) {
  if (/rolled_back|refused/.test(state)) return "bad";
  if (/promoted/.test(state)) return "good";
  return "open";
}
