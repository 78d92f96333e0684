/**
 * Where the candidates lie in embedding space, seen from two directions.
 *
 * The same length means the same distance on both axes; the unmoved prompt is at the cross. A
 * perturbation hangs on the centre from which it was asked; the line joins the centres.
 */

import { s } from "./dom.js";
import { Plot } from "./plot.js";

const PAD = 26;

/** How far the farthest candidate lies from the unmoved prompt, in units of the table's RMS. */
export const reach = (evaluations) => Math.max(0, ...evaluations.map(({ xy }) => Math.hypot(...xy)));

export class Plane extends Plot {
  constructor(root, onSelect) {
    super(root, "map", onSelect);
  }

  paint(width, height) {
    const evaluations = this.run?.evaluations ?? [];
    const scale = (Math.min(width, height) / 2 - PAD) / Math.max(1e-9, reach(evaluations));
    const place = ({ xy }) => [width / 2 + xy[0] * scale, height / 2 - xy[1] * scale];
    this.back.replaceChildren(
      ...this.#ground(width, height),
      ...this.#moves(evaluations, place),
    );
    this.place(place, evaluations.length > 60 ? 3.4 : 5);
  }

  #ground(width, height) {
    const [x, y] = [width / 2, height / 2];
    const most = Math.min(width, height) / 2 - PAD;
    return [
      ...[1 / 3, 2 / 3, 1].map((part) => s("circle", { class: "grid", cx: x, cy: y, r: most * part })),
      s("path", { class: "grid", d: `M${x - most - 12} ${y}H${x + most + 12}M${x} ${y - most - 12}V${y + most + 12}` }),
    ];
  }

  #moves(evaluations, place) {
    let [centre, path, spokes] = [null, "", ""];
    for (const evaluation of evaluations) {
      const point = place(evaluation).map((value) => value.toFixed(1)).join(" ");
      if (evaluation.origin === "perturbation") {
        if (centre) spokes += `M${centre}L${point}`;
      } else {
        path += `${centre ? "L" : "M"}${point}`;
        centre = point;
      }
    }
    return [s("path", { class: "spokes", d: spokes || null }), s("path", { class: "moves", d: path || null })];
  }
}
