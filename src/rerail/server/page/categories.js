/** Scores by category, before and after, each with its threshold. A table, drawn as bars. */

import { h, s } from "./dom.js";
import { number } from "./format.js";

const WIDTH = 100;

function bar(before, after, threshold) {
  const row = (value, name, y) =>
    value === undefined
      ? []
      : [s("rect", {
          class: `${name}${value >= threshold ? " over" : ""}`,
          x: 0,
          y,
          width: Math.max(value * WIDTH, 0.6),
          height: 5,
          rx: 1.5,
        })];
  return s(
    "svg",
    { class: "bars", viewBox: `0 0 ${WIDTH} 16`, preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { class: "track", x: 0, y: 1, width: WIDTH, height: 14, rx: 1.5 }),
    row(before, "before", 2.2),
    row(after, "after", 8.8),
    s("path", { class: "threshold", d: `M${threshold * WIDTH} 0V16`, "vector-effect": "non-scaling-stroke" }),
  );
}

/**
 * @param {Record<string, number>} thresholds by category
 * @param {Record<string, number>} before scores of the first answer
 * @param {Record<string, number> | null} after scores of another answer, if there is one
 * @param {string} name what the other answer is called
 */
export function categoryTable(thresholds, before, after, name) {
  const ratio = ([category, threshold]) => (before[category] ?? 0) / threshold;
  const rows = Object.entries(thresholds).sort((a, b) => ratio(b) - ratio(a));
  const cell = (scores, category, threshold) => {
    const value = scores?.[category];
    return h("td", { class: value >= threshold ? "number over" : "number" }, number(value));
  };
  return h(
    "table",
    { class: "categories" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "col" }, "Category"),
        h("th", { scope: "col", class: "bar-name" }, "Score, 0 to 1"),
        h("th", { scope: "col", class: "number" }, "First"),
        h("th", { scope: "col", class: "number" }, name),
        h("th", { scope: "col", class: "number" }, "Limit"),
      ),
    ),
    h(
      "tbody",
      {},
      rows.map(([category, threshold]) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, category),
          h("td", { class: "bar-cell" }, bar(before[category], after?.[category], threshold)),
          cell(before, category, threshold),
          cell(after, category, threshold),
          h("td", { class: "number quiet" }, number(threshold)),
        ),
      ),
    ),
  );
}
