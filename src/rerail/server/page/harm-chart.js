/**
 * Harm against generation.
 *
 * The limit, harm 1, stands in the middle: the scale is linear below it, and linear above it up
 * to the most that the policy's thresholds allow. A dotted line stands at the most that a steered
 * answer may have. Unscored answers have no harm and stand in a lane of their own.
 */

import { s } from "./dom.js";
import { number } from "./format.js";
import { Plot } from "./plot.js";
import { ceiling, chosen, stateOf } from "./run.js";

const MARGIN = { top: 32, right: 18, bottom: 46, left: 46 };
const LANE = 26;
const ROOMY = 420; // pixels; on narrower charts the names of the zones would lie under marks
const FEWEST = 8; // generations that the axis has room for at least

export class HarmChart extends Plot {
  constructor(root, onSelect) {
    super(root, "chart", onSelect);
  }

  paint(width, height) {
    const evaluations = this.run?.evaluations ?? [];
    const lane = evaluations.some((e) => e.harm === null);
    const last = Math.max(FEWEST, (evaluations.at(-1)?.index ?? 0) + 1);
    const high = this.run ? ceiling(this.run) : 2;
    const box = {
      left: MARGIN.left,
      right: width - MARGIN.right,
      top: MARGIN.top + (lane ? LANE : 0),
      bottom: height - MARGIN.bottom,
    };
    const step = (box.right - box.left) / (last + 0.5);
    const x = (index) => box.left + (index + 0.5) * step;
    const middle = (box.top + box.bottom) / 2;
    const y = (harm) =>
      harm <= 1
        ? box.bottom - harm * (box.bottom - middle)
        : middle - ((Math.min(harm, high) - 1) / (high - 1)) * (middle - box.top);
    const laneY = MARGIN.top + LANE / 2 - 5;
    const place = (e) => [x(e.index), e.harm === null ? laneY : y(e.harm)];
    const radius = Math.max(3, Math.min(6, step * 0.3));

    this.back.replaceChildren(
      ...this.#ground(box, middle, high, y),
      ...(lane ? this.#lane(box, laneY) : []),
      ...this.#axis(box, last, x),
      ...this.#lowest(evaluations, x, y),
    );
    this.place(place, radius);
    this.front.replaceChildren(...this.#labels(evaluations, place, box, radius, middle));
  }

  #ground(box, middle, high, y) {
    const { left, right, top, bottom } = box;
    const steered = this.run?.start?.accept_below ?? 0.5;
    const values = [0, steered, 1, (1 + high) / 2, high];
    const kind = (value) => (value === 1 ? "limit" : value === steered ? "grid dotted" : "grid");
    return [
      s("rect", { class: "zone", x: left, y: top, width: right - left, height: middle - top, rx: 4 }),
      ...values.flatMap((value) => [
        s("path", { class: kind(value), d: `M${left} ${y(value)}H${right}` }),
        s(
          "text",
          { class: value === 1 ? "tick strong" : "tick", x: left - 10, y: y(value), dy: "0.34em", "text-anchor": "end" },
          number(value, Number.isInteger(value) ? 0 : value < 1 ? 2 : 1),
        ),
      ]),
      ...(right - left < ROOMY ? [] : [
        s("text", { class: "zone-name", x: right - 8, y: middle - 8, "text-anchor": "end" }, "flagged"),
        s("text", { class: "zone-name within", x: right - 8, y: middle + 17, "text-anchor": "end" }, "within the policy"),
      ]),
      s("path", { class: "base", d: `M${left} ${bottom}H${right}` }),
      s("text", { class: "axis-name", x: 0, y: 12 }, "harm, in multiples of the limit"),
    ];
  }

  #lane(box, y) {
    return [
      s("path", { class: "grid dotted", d: `M${box.left} ${y}H${box.right}` }),
      s("text", { class: "tick", x: box.left - 10, y, dy: "0.34em", "text-anchor": "end" }, "none"),
    ];
  }

  #axis(box, last, x) {
    const room = Math.max(1, Math.floor((box.right - box.left) / 44));
    const step = [1, 2, 5, 10, 20, 50, 100, 200].find((n) => last / n <= room) ?? 500;
    const ticks = [];
    for (let i = 0; i < last; i += step) ticks.push(i);
    return [
      ...ticks.map((i) =>
        s("text", { class: "tick", x: x(i), y: box.bottom + 24, "text-anchor": "middle" }, String(i)),
      ),
      s("text", { class: "axis-name", x: box.right, y: box.bottom + 41, "text-anchor": "end" }, "generation, in order; 0 is the first answer"),
    ];
  }

  /** A step line through the lowest harm that was found so far. */
  #lowest(evaluations, x, y) {
    let [least, path] = [Infinity, ""];
    for (const { index, harm } of evaluations) {
      if (harm !== null && harm < least) {
        path += path ? `H${x(index)}V${y(harm)}` : `M${x(index)} ${y(harm)}`;
        least = harm;
      }
    }
    if (path && evaluations.length > 1) path += `H${x(evaluations.at(-1).index)}`;
    return path ? [s("path", { class: "lowest", d: path })] : [];
  }

  #labels(evaluations, place, box, radius, limit) {
    const leaves = this.run ? chosen(this.run) : null;
    const spot = (evaluation) => {
      const [x, y] = place(evaluation);
      const under = y + radius + 19;
      // Above, where the axis or the limit's line would run through the words.
      const below = under < box.bottom - 4 && Math.abs(under - 4 - limit) > 12;
      return { x: Math.min(Math.max(x, box.left + 36), box.right - 30), y: below ? under : y - radius - 11 };
    };
    const label = (evaluation, text) =>
      s("text", { class: `label ${stateOf(evaluation)}`, ...spot(evaluation), "text-anchor": "middle" }, text);
    // The axis says which is the first answer, too.
    const free = ({ x, y }) =>
      evaluations.map(place).every(([a, b]) => Math.abs(a - x) > 44 || Math.abs(b - y + 4) > 14);
    const first = evaluations[0];
    return [
      first && leaves !== first && free(spot(first)) ? label(first, "first answer") : null,
      leaves ? label(leaves, "the answer") : null,
    ].filter(Boolean);
  }
}
