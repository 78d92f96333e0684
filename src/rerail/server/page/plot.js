/**
 * What the two charts share: an SVG as wide as its place, marks that keep their element from one
 * drawing to the next (so that they glide), and a selection by pointer or arrow keys.
 */

import { oncePerFrame, s } from "./dom.js";
import { chosen, stateOf } from "./run.js";
import { symbolPath } from "./symbols.js";

const REACH = 28; // pixels from a mark within which the pointer selects it

export class Plot {
  /**
   * @param {HTMLElement} root where the chart stands
   * @param {string} kind what it is called aloud
   * @param {(index: number | null) => void} onSelect told of a selection
   */
  constructor(root, kind, onSelect) {
    this.root = root;
    this.onSelect = onSelect;
    this.run = null;
    this.selected = null;
    this.marks = new Map();
    this.back = s("g");
    this.layer = s("g");
    this.front = s("g", { class: "front" });
    this.svg = s("svg", { "aria-hidden": "true" }, this.back, this.layer, this.front);
    root.append(this.svg);
    root.tabIndex = 0;
    root.setAttribute("role", "img");
    root.setAttribute("aria-roledescription", kind);
    root.addEventListener("keydown", (event) => this.#key(event));
    root.addEventListener("blur", () => this.onSelect(null));
    this.svg.addEventListener("pointermove", (event) => this.#point(event));
    this.svg.addEventListener("pointerdown", (event) => this.#point(event));
    this.svg.addEventListener("pointerleave", () => this.onSelect(null));
    const draw = oncePerFrame(() => this.draw());
    new ResizeObserver(draw).observe(root);
    this.redraw = draw;
  }

  show(run, selected, description) {
    if (run !== this.run) {
      this.layer.replaceChildren();
      this.marks.clear();
    }
    this.run = run;
    this.selected = selected;
    this.root.setAttribute("aria-label", description);
    this.redraw();
  }

  get size() {
    const { width, height } = this.root.getBoundingClientRect();
    return { width: Math.round(width), height: Math.round(height) };
  }

  draw() {
    const { width, height } = this.size;
    if (width === 0 || height === 0) return;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("width", width);
    this.svg.setAttribute("height", height);
    this.paint(width, height);
  }

  /** Put the marks of the run's evaluations at the places that a function gives. */
  place(position, radius) {
    this.layer.classList.toggle("crowded", radius < 4);
    const leaves = this.run ? chosen(this.run) : null;
    for (const evaluation of this.run?.evaluations ?? []) {
      let mark = this.marks.get(evaluation.index);
      if (!mark) {
        const state = stateOf(evaluation);
        const path = s("path", { class: "mark new", "data-state": state });
        const ring = s("circle", { class: "ring" });
        const node = s("g", { class: "candidate", "data-index": evaluation.index }, ring, path);
        mark = { node, path, ring, state };
        this.marks.set(evaluation.index, mark);
        this.layer.append(node);
      }
      const [x, y] = position(evaluation);
      Object.assign(mark, { x, y });
      mark.node.style.transform = `translate(${x.toFixed(1)}px, ${y.toFixed(1)}px)`;
      mark.path.setAttribute("d", symbolPath(mark.state, radius));
      mark.ring.setAttribute("r", radius + 5);
      mark.node.classList.toggle("selected", evaluation.index === this.selected);
      mark.node.classList.toggle("leaves", evaluation === leaves);
      mark.node.classList.toggle("first", evaluation.index === 0);
    }
  }

  #point(event) {
    const box = this.svg.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let [best, least] = [null, REACH];
    for (const [index, mark] of this.marks) {
      const distance = Math.hypot(mark.x - x, mark.y - y);
      if (distance < least) [best, least] = [index, distance];
    }
    this.onSelect(best);
  }

  #key(event) {
    const order = (this.run?.evaluations ?? []).map((e) => e.index);
    if (order.length === 0) return;
    const here = order.indexOf(this.selected);
    const leaves = chosen(this.run);
    const start = leaves ? order.indexOf(leaves.index) : order.length - 1;
    const next = {
      ArrowRight: here < 0 ? start : Math.min(here + 1, order.length - 1),
      ArrowLeft: here < 0 ? start : Math.max(here - 1, 0),
      Home: 0,
      End: order.length - 1,
    }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    this.onSelect(order[next]);
  }
}
