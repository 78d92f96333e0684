/** Numbers and times as people read them. What does not exist is a dash. */

const NONE = "–";
const MINUS = "\u2212";

/** A number with a fixed count of decimals and a true minus sign. */
export function number(value, decimals = 2) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  const text = value.toFixed(decimals);
  return text.startsWith("-") ? MINUS + text.slice(1) : text;
}

/** A number with its sign, as a difference has one. */
export function signed(value, decimals = 2) {
  const text = number(value, decimals);
  return text === NONE || text.startsWith(MINUS) ? text : `+${text}`;
}

/** A share as percent. */
export function percent(value) {
  const text = number(value === null ? value : 100 * value, 0);
  return text === NONE ? text : `${text} %`;
}

export function count(value) {
  return Number.isFinite(value) ? value.toLocaleString("en-GB") : NONE;
}

export function seconds(value) {
  if (!Number.isFinite(value)) return NONE;
  if (value < 60) return `${value.toFixed(value < 10 ? 2 : 1)} s`;
  return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
}

export function plural(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/** A point in time as a Date; seconds since 1970 and ISO texts are understood. */
export function instant(at) {
  return new Date(typeof at === "number" ? at * 1000 : at);
}

const STEPS = [
  [60, "second", 1],
  [3600, "minute", 60],
  [86400, "hour", 3600],
  [Infinity, "day", 86400],
];

/** How long ago, in the largest unit that fits. */
export function ago(at, now = Date.now()) {
  const passed = Math.max(0, (now - instant(at).getTime()) / 1000);
  if (!Number.isFinite(passed)) return NONE;
  if (passed < 5) return "just now";
  const [, unit, size] = STEPS.find(([limit]) => passed < limit);
  return `${plural(Math.floor(passed / size), unit)} ago`;
}

/** The full local date and time. */
export function moment(at) {
  const date = instant(at);
  if (Number.isNaN(date.getTime())) return NONE;
  return date.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
}
