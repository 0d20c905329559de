// The page: one stream of snapshots, drawn as they come.

import { showCharts, startCharts } from "./charts.js";
import { $, set } from "./dom.js";
import { showMigrations, showVerdicts } from "./evidence.js";
import { clock } from "./format.js";
import { showBackends, showFoot, showLoop, showReplays, showSpend, showTiles } from "./panels.js";

// Charts first: they give the backends their colours, in the order of the configuration.
const PANELS = [showCharts, showTiles, showLoop, showBackends, showVerdicts, showMigrations, showSpend, showReplays, showFoot];
const QUIET_MS = 5000;
let stream = null;
let heard = 0;

function state(name, message = "", hint = "") {
  $("state").dataset.state = name;
  set($("state-word"), name);
  $("trouble").hidden = message === "";
  set($("trouble-message"), message);
  set($("trouble-hint"), hint);
}

function show(snapshot) {
  let broken = "";
  for (const panel of PANELS) {
    try {
      panel(snapshot);
    } catch (error) {
      // One panel that cannot be drawn leaves the others alive.
      console.error(error);
      broken = `${panel.name}: ${error.message}`;
    }
  }
  set($("state-time"), clock(snapshot.at_ms));
  document.body.dataset.ready = "true";
  if (broken) state("error", "A part of the page could not be drawn.", broken);
  else state("live");
}

function connect() {
  stream?.close();
  stream = new EventSource("api/live/stream");
  heard = Date.now();
  stream.addEventListener("snapshot", (event) => {
    heard = Date.now();
    show(JSON.parse(event.data));
  });
  stream.addEventListener("trouble", (event) => {
    heard = Date.now();
    const { message, hint } = JSON.parse(event.data);
    state("error", `The ledger did not answer: ${message}`, hint || "The numbers are the last ones read; trying again.");
  });
  stream.addEventListener("error", () => {
    state("offline", "Lost the connection to control.", "Trying again; is `fungible up` running?");
    // The browser gives up on its own after an HTTP error; a restarted server answers again.
    if (stream.readyState === EventSource.CLOSED) setTimeout(connect, 1000);
  });
}

startCharts();
connect();

setInterval(() => {
  if (!document.hidden && Date.now() - heard > QUIET_MS && $("state").dataset.state === "live") state("quiet", "No news for more than 5 s.", "The numbers are the last ones read.");
}, 1000);

// Nobody looks: give the ledger its rest.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) stream?.close();
  else connect();
});
