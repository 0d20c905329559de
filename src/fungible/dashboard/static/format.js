// Numbers as people read them, each with its unit. Money arrives as decimal text and is rounded
// here, once, on its digits: never through a binary float.

export const NONE = "–";
const SYMBOLS = { USD: "$", EUR: "€", GBP: "£", JPY: "¥" };

/** `text` rounded half to even to `places` digits after the point. */
export function roundDecimal(text, places) {
  const [, sign, whole, part = ""] = /^(-?)(\d+)(?:\.(\d*))?$/.exec(text);
  let digits = BigInt(whole + part.slice(0, places).padEnd(places, "0"));
  const cut = part.slice(places);
  const half = cut === "" ? -1 : cut[0] !== "5" ? (cut[0] > "5" ? 1 : -1) : /[1-9]/.test(cut.slice(1)) ? 1 : 0;
  if (half > 0 || (half === 0 && digits % 2n === 1n)) digits += 1n;
  const all = digits.toString().padStart(places + 1, "0");
  const body = places ? `${all.slice(0, -places)}.${all.slice(-places)}` : all;
  return (digits === 0n ? "" : sign) + body;
}

/** Money with its currency: cents from 1 up, three significant digits below. */
export function money(text, currency) {
  if (text === null || text === undefined || currency === "") return NONE;
  const [whole, part = ""] = text.replace("-", "").split(".");
  let places = 2;
  if (/^0*$/.test(whole)) {
    const zeros = part.search(/[1-9]/);
    places = zeros < 0 ? 2 : zeros + 3;
  }
  const rounded = roundDecimal(text, places);
  const [left, right] = rounded.replace("-", "").split(".");
  const amount = `${left.replace(/\B(?=(\d{3})+$)/g, ",")}${right ? `.${right}` : ""}`;
  const sign = rounded.startsWith("-") ? "-" : "";
  return SYMBOLS[currency] ? sign + SYMBOLS[currency] + amount : `${sign}${amount} ${currency}`;
}

/** A tick of an axis: the chart chose a round number, so only its own digits are shown. */
export function moneyTick(value, currency) {
  const amount = Number(value.toPrecision(6)).toLocaleString("en-US", { maximumFractionDigits: 12 });
  return SYMBOLS[currency] ? SYMBOLS[currency] + amount : `${amount} ${currency}`;
}

/** A whole number; from a million up in millions. */
export function count(value) {
  if (value >= 1e9) return `${(value / 1e9).toFixed(2)} G`;
  if (value >= 1e6) return `${(value / 1e6).toFixed(2)} M`;
  return value.toLocaleString("en-US");
}

export function rate(value, unit) {
  if (value === null || value === undefined) return NONE;
  return `${value === 0 ? "0" : value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : count(Math.round(value))} ${unit}`;
}

export function percent(share, places) {
  if (share === null || share === undefined) return NONE;
  const value = share * 100;
  const digits = places ?? (value === 0 || value >= 99.95 ? 0 : value < 1 ? 2 : 1);
  return `${value.toFixed(digits)} %`;
}

export function millis(value) {
  if (value === null || value === undefined) return NONE;
  if (value >= 10_000) return `${(value / 1000).toFixed(1)} s`;
  return `${value < 10 ? value.toFixed(1) : count(Math.round(value))} ms`;
}

/** A difference of scores, in points of 100, with its sign. */
export function points(value) {
  return `${value > 0 ? "+" : ""}${(value * 100).toFixed(1)} pt`;
}

export function clock(ms) {
  return new Date(ms).toLocaleTimeString("en-GB");
}

export function ago(ms, now) {
  if (ms === null || ms === undefined) return "never";
  const s = Math.max(0, Math.round((now - ms) / 1000));
  if (s < 2) return "just now";
  if (s < 120) return `${s} s ago`;
  if (s < 7200) return `${Math.round(s / 60)} min ago`;
  return `${Math.round(s / 3600)} h ago`;
}

/** A bare number of unknown unit, as it came: at most four significant digits. */
export function plain(value) {
  return Number.isInteger(value) ? value.toLocaleString("en-US") : String(Number(value.toPrecision(4)));
}

/** `rolled_back` -> `rolled back`. */
export function words(name) {
  return name.replace(/[_-]+/g, " ");
}
