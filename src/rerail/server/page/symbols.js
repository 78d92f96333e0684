/** A shape for every state, so that nothing hangs on colour alone. All cover about the same area. */

import { s } from "./dom.js";

const PATHS = {
  accepted: (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
  flagged: (r) => `M0 ${-1.25 * r}L${1.16 * r} ${0.8 * r}H${-1.16 * r}z`,
  unnatural: (r) => `M0 ${-1.3 * r}L${1.3 * r} 0 0 ${1.3 * r} ${-1.3 * r} 0z`,
  unscored: (r) => `M${-0.9 * r} ${-0.9 * r}L${0.9 * r} ${0.9 * r}M${0.9 * r} ${-0.9 * r}L${-0.9 * r} ${0.9 * r}`,
  rejected: (r) => `M${-0.9 * r} ${-0.9 * r}H${0.9 * r}V${0.9 * r}H${-0.9 * r}z`,
};

export const symbolPath = (state, radius) => PATHS[state](radius);

/** A small picture of a state's symbol, for legends and tables. */
export function symbol(state) {
  return s(
    "svg",
    { class: "symbol", viewBox: "-8 -8 16 16", width: 14, height: 14, "aria-hidden": "true" },
    s("path", { class: "mark", "data-state": state, d: symbolPath(state, 5) }),
  );
}
