/**
 * Where the candidates lie in embedding space, seen from two directions.
 *
 * The same length means the same distance on both axes; the unmoved prompt is at the cross. A
 * perturbation, or an offset that the policy knows, hangs on the centre from which it was asked; the
 * line joins the centres.
 */

import { s } from "./dom.js";
import { number } from "./format.js";
import { Plot } from "./plot.js";

const PAD = 26;

/** How far the farthest candidate lies from the unmoved prompt, in units of the table's RMS. */
const reach = (evaluations) => Math.max(0, ...evaluations.map(({ xy }) => Math.hypot(...xy)));

export class Plane extends Plot {
  constructor(root, onSelect) {
    super(root, "map", onSelect);
  }

  paint(width, height) {
    const evaluations = this.run?.evaluations ?? [];
    const far = reach(evaluations);
    const scale = (Math.min(width, height) / 2 - PAD) / Math.max(1e-9, far);
    const place = ({ xy }) => [width / 2 + xy[0] * scale, height / 2 - xy[1] * scale];
    this.back.replaceChildren(
      ...this.#ground(width, height, far),
      ...this.#moves(evaluations, place),
    );
    this.place(place, evaluations.length > 60 ? 3.4 : 5);
  }

  #ground(width, height, far) {
    const [x, y] = [width / 2, height / 2];
    const most = Math.min(width, height) / 2 - PAD;
    return [
      ...[1 / 3, 2 / 3, 1].map((part) => s("circle", { class: "grid", cx: x, cy: y, r: most * part })),
      s("path", { class: "grid", d: `M${x - most - 12} ${y}H${x + most + 12}M${x} ${y - most - 12}V${y + most + 12}` }),
      ...(far > 0 ? [s("text", { class: "tick", x: x + 0.71 * most + 5, y: y - 0.71 * most - 3 }, `${number(far)} RMS`)] : []),
      s("text", { class: "axis-name", x: width, y: y - 6, "text-anchor": "end" }, "direction 1"),
      s("text", { class: "axis-name", x: x + 6, y: 11 }, "direction 2"),
      s("text", { class: "axis-name", x: width, y: height - 4, "text-anchor": "end" }, "offset in units of the embedding table\u2019s RMS"),
    ];
  }

  #moves(evaluations, place) {
    let [centre, path, spokes] = [null, "", ""];
    for (const evaluation of evaluations) {
      const point = place(evaluation).map((value) => value.toFixed(1)).join(" ");
      if (evaluation.origin !== "initial" && evaluation.origin !== "iterate") {
        if (centre) spokes += `M${centre}L${point}`;
      } else {
        path += `${centre ? "L" : "M"}${point}`;
        centre = point;
      }
    }
    return [s("path", { class: "spokes", d: spokes || null }), s("path", { class: "moves", d: path || null })];
  }
}
