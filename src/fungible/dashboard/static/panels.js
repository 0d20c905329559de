// Tiles, the loop in the header, and the tables.

import { colour } from "./charts.js";
import { $, attr, cells, el, emptied, keyed, set } from "./dom.js";
import { NONE, ago, count, millis, money, percent, rate } from "./format.js";

const plural = (value, one, many) => `${count(value)} ${value === 1 ? one : many}`;

export function showTiles({ totals: t, currency, at_ms: now, simulated_prices: simulated }) {
  set($("tile-requests"), count(t.requests));
  set($("tile-requests-sub"), `${rate(t.requests_per_s, "req/s")} now · latest ${ago(t.last_attempt_ms, now)}`);
  set($("tile-tokens"), rate(t.tokens_per_s, "tok/s"));
  set($("tile-tokens-sub"), `${plural(t.tokens, "token", "tokens")} in + out, 24 h`);
  set($("tile-errors"), percent(t.error_share));
  set($("tile-errors-sub"), `${plural(t.errors, "failed attempt", "failed attempts")} while serving`);
  set($("tile-cost"), money(t.cost, currency));
  set($("tile-cost-sub"), `of it proving ${money(t.proving_cost, currency)} · plus idle ${money(t.idle_cost, currency)}`);
  set($("tile-mtok"), money(t.cost_per_mtok, currency));
  set($("tile-mtok-sub"), "in + out, every priced attempt");
  set($("tile-unattributed"), percent(t.unattributed_share));
  set($("tile-unattributed-sub"), `${money(t.unattributed_cost, currency)} of spend · ${plural(t.unpriced, "attempt", "attempts")} unpriced`);
  $("tile-unattributed-sub").classList.toggle("warn", t.unpriced > 0);
  for (const mark of document.querySelectorAll("[data-simulated]")) {
    mark.hidden = simulated.length === 0;
    attr(mark, "title", `The price sheet marks these as examples: ${simulated.join(", ")}`);
  }
}

export function showLoop({ totals: t, backends, verdicts, routes }) {
  const serving = backends.filter((row) => row.weight > 0).length;
  set($("loop-request"), rate(t.requests_per_s, "/s"));
  set($("loop-gateway"), rate(t.tokens_per_s, "tok/s"));
  set($("loop-backend"), `${serving} of ${backends.length} routed`);
  set($("loop-ledger"), plural(t.attempts, "attempt", "attempts"));
  const last = verdicts[0];
  set($("loop-verdict"), last ? `${last.outcome} · ${last.candidate}` : "none yet", last ? `o-${last.outcome}` : "");
  const lead = routes.models[0] && Object.entries(routes.models[0].shares).sort((a, b) => b[1] - a[1])[0];
  set($("loop-route"), lead ? `v${routes.version} · ${lead[0]} ${percent(lead[1], 0)}` : NONE);
}

export function showBackends({ backends, routes, currency, totals }) {
  keyed($("backends"), backends, (row) => row.name, backendRow, (node, row) => {
    node.querySelector(".swatch").style.background = colour(row.name);
    set(node.querySelector(".name"), row.name);
    set(node.querySelector(".ref"), row.reference ? "reference" : "");
    set(node.querySelector(".runs"), [row.accelerator, row.target, row.variant].filter(Boolean).join(" · "));
    const verdict = row.verdict ?? (row.reference ? "" : "none");
    set(node.querySelector(".badge"), verdict === "none" ? "no verdict" : verdict, verdict ? `badge o-${verdict}` : "badge");
    node.querySelector(".bar i").style.width = `${(row.serve_share ?? 0) * 100}%`;
    node.querySelector(".bar i").style.background = colour(row.name);
    const values = [
      percent(row.weight), percent(row.serve_share), count(row.attempts), count(row.errors),
      rate(row.tokens_per_s, "tok/s"), millis(row.ttft_p50_ms), millis(row.ttft_p99_ms),
      row.unpriced && row.unpriced === row.attempts ? "unpriced" : money(row.cost, currency),
      money(row.idle_cost, currency), money(row.cost_per_mtok, currency),
    ];
    node.querySelectorAll(".v").forEach((cell, index) => set(cell, values[index]));
    node.querySelectorAll(".v")[3].classList.toggle("bad", row.errors > 0);
  });
  const what = "No backends. Add one to fungible.toml, for example [backend.NAME] url = \"http://…/v1\".";
  emptied($("empty-backends"), [$("backends").closest(".scroll")], backends.length ? "" : what);
  const shadows = routes.models.filter((route) => route.shadow);
  const note = shadows.map((route) => `${route.model}: ${percent(route.shadow_share)} shadowed to ${route.shadow}`);
  const version = `route table v${routes.version}${routes.reason ? `: ${routes.reason}` : ""}`;
  set($("route-note"), routes.problem || [version, ...note].join(" · "), routes.problem ? "bad" : "");
}

function backendRow() {
  const row = el("tr");
  const head = el("th");
  head.scope = "row";
  const title = el("span", "title");
  title.append(el("i", "swatch"), el("span", "name"), el("em", "ref"));
  head.append(title);
  const verdict = el("td");
  verdict.append(el("span", "badge"));
  row.append(head, el("td", "runs dim"), verdict);
  for (let index = 0; index < 10; index += 1) {
    const cell = el("td", "n");
    if (index === 1) {
      const bar = el("span", "bar");
      bar.append(el("i"));
      cell.append(bar);
    }
    cell.append(el("span", "v"));
    row.append(cell);
  }
  return row;
}

export function showSpend({ spend, currency, totals }) {
  keyed($("spend"), spend, (row) => [row.purpose, row.rest, row.feature, row.customer].join("\n"), () => el("tr"), (node, row) => {
    const none = ["unattributed", "warn"];
    const feature = row.purpose === "prove" ? ["evals, shadow", "dim"] : row.rest ? ["all others", "dim"] : row.feature ? [row.feature] : none;
    const customer = row.purpose === "prove" || row.rest ? [""] : row.customer ? [row.customer] : none;
    cells(node, [
      feature, customer, [row.unpriced && row.unpriced === row.attempts ? "unpriced" : money(row.cost, currency), "n"],
      [count(row.purpose === "prove" ? row.attempts : row.requests), "n"], [count(row.tokens), "n"],
    ]);
  });
  const total = spend.length ? [totals] : [];
  keyed($("spend-total"), total, () => "total", () => el("tr"), (node) => {
    const requests = spend.reduce((sum, row) => sum + (row.purpose === "prove" ? row.attempts : row.requests), 0);
    cells(node, [["total"], [""], [money(totals.cost, currency), "n"], [count(requests), "n"], [count(totals.tokens), "n"]]);
  });
  const what = "Spend appears with the first answers. Name a feature per request: \"metadata\": {\"feature\": \"search\"}.";
  emptied($("empty-spend"), [$("spend").closest(".scroll")], spend.length ? "" : what);
}

export function showReplays({ replays }) {
  const what = "No replay yet. Send the same recorded traffic to each backend with: fungible bench replay --backend BACKEND.";
  emptied($("empty-replays"), [$("replays").closest(".scroll")], replays.length ? "" : what);
  keyed($("replays"), replays, (row) => `${row.trace}\n${row.backend}`, () => el("tr"), (node, row) => cells(node, [
    [row.backend], [row.trace], [count(row.requests), "n"], [count(row.failed), row.failed ? "n bad" : "n"],
    [millis(row.ttft_p50_ms), "n"], [millis(row.ttft_p99_ms), "n"],
    [row.valid ? rate(row.tokens_per_s, "tok/s") : "not valid", row.valid ? "n" : "n warn"],
  ]));
}

export function showFoot({ simulated_prices: simulated, other_currencies: others, currency, price_problem: problem }) {
  const notes = problem ? [problem] : [];
  if (simulated.length) notes.push(`Prices of ${simulated.join(", ")} are examples, not a contract's.`);
  if (others.length) notes.push(`Only ${currency} is summed; attempts priced in ${others.join(", ")} are left out.`);
  set($("price-note"), notes.join(" "));
}
