/** Two texts line by line: the longest common subsequence, with what differs around it. */

import { h } from "./dom.js";

const CONTEXT = 3;
const MOST = 4_000_000; // cells of the table; beyond, what lies between is shown as replaced

/** [{kind: "same" | "removed" | "added", text}] that turns the first text into the second. */
export function diffLines(before, after) {
  const [a, b] = [before.split("\n"), after.split("\n")];
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let end = 0;
  while (
    end < a.length - start &&
    end < b.length - start &&
    a[a.length - 1 - end] === b[b.length - 1 - end]
  ) {
    end += 1;
  }
  const same = (lines) => lines.map((text) => ({ kind: "same", text }));
  return [
    ...same(a.slice(0, start)),
    ...between(a.slice(start, a.length - end), b.slice(start, b.length - end)),
    ...same(a.slice(a.length - end)),
  ];
}

function between(a, b) {
  const removed = (text) => ({ kind: "removed", text });
  const added = (text) => ({ kind: "added", text });
  if (a.length * b.length > MOST) return [...a.map(removed), ...b.map(added)];
  const width = b.length + 1;
  const length = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      length[i * width + j] =
        a[i] === b[j]
          ? length[(i + 1) * width + j + 1] + 1
          : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
    }
  }
  const lines = [];
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      lines.push({ kind: "same", text: a[i] });
      i += 1;
      j += 1;
    } else if (j === b.length || (i < a.length && length[(i + 1) * width + j] >= length[i * width + j + 1])) {
      lines.push(removed(a[i]));
      i += 1;
    } else {
      lines.push(added(b[j]));
      j += 1;
    }
  }
  return lines;
}

const SIGNS = { same: "\u00a0", removed: "\u2212", added: "+" };
const SPOKEN = { same: "", removed: "removed: ", added: "added: " };

/** The differences as elements, with a few lines around each. */
export function diffView(before, after) {
  const lines = diffLines(before, after);
  const near = lines.map((_, i) =>
    lines.slice(Math.max(0, i - CONTEXT), i + CONTEXT + 1).some((line) => line.kind !== "same"),
  );
  if (!near.includes(true)) return [h("p", { class: "empty" }, "No difference.")];
  const nodes = [];
  let hidden = 0;
  const flush = () => {
    if (hidden > 0) nodes.push(h("div", { class: "skipped" }, `${hidden} unchanged`));
    hidden = 0;
  };
  lines.forEach(({ kind, text }, i) => {
    if (!near[i]) {
      hidden += 1;
      return;
    }
    flush();
    nodes.push(
      h(
        "div",
        { class: `line ${kind}` },
        h("span", { class: "sign", "aria-hidden": "true" }, SIGNS[kind]),
        h("span", { class: "visually-hidden" }, SPOKEN[kind]),
        h("span", {}, text || "\u00a0"),
      ),
    );
  });
  flush();
  return nodes;
}
