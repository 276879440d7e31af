// Values over time as SVG, drawn as wide as there is room: lines inside the ribbons of their intervals, markers of what
// changed, a cursor for pointer and keys, and a range that can be drawn over it to zoom.

import { el, svg, utc } from "./dom.js";

const [LEFT, RIGHT, TOP, BOTTOM] = [48, 10, 22, 24];
const DAY = 86400;
// Pixels below which a drawn range is a click.
const MIN_DRAG = 8;

// Steps of 1, 2 or 5 times a power of ten, about `count` of them.
function valueTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) found.push(at);
  return found;
}

function timeTicks(since, until, count) {
  const step = [60, 300, 900, 3600, 7200, 14400, 28800, DAY, 2 * DAY, 7 * DAY, 28 * DAY, 91 * DAY].find((width) => (until - since) / width <= count) ?? 364 * DAY;
  const found = [];
  for (let at = Math.ceil(since / step) * step; at <= until; at += step) found.push(at);
  return found;
}

// Points that follow one another without a gap of more than one bin.
function runs(points, width) {
  const found = [];
  for (const one of points) {
    const last = found.at(-1);
    if (last && one.start - last.at(-1).start <= 2 * width) last.push(one);
    else found.push([one]);
  }
  return found;
}

// `plot`: title, lines [{name, css, points [{start, value, low, high, words}]}], range [low, high], form (of a value),
// bands. `axis`: since, until, bin_seconds, markers. `onRange(since, until)` is called with what was drawn.
export class Timeline {
  constructor(plot, axis, onRange) {
    Object.assign(this, { plot, axis, onRange, dragged: null, at: null });
    this.tooltip = el("div", { class: "tooltip", role: "status", hidden: true });
    this.figure = el("figure", { tabindex: "0", "aria-label": `${plot.title}. Arrow keys move the cursor.` }, el("figcaption", {}, plot.title), this.tooltip);
    // The pointer may be there before the first picture is.
    for (const [name, handle] of [["pointerdown", this.down], ["pointermove", this.move], ["pointerup", this.up], ["keydown", this.key]]) {
      this.figure.addEventListener(name, (event) => this.cursor && handle.call(this, event));
    }
    this.figure.addEventListener("pointercancel", () => this.leave());
    this.figure.addEventListener("pointerleave", () => this.dragged === null && this.leave());
    this.figure.addEventListener("blur", () => this.leave());
    new ResizeObserver(() => this.draw()).observe(this.figure);
  }

  x(at) {
    const { since, until } = this.axis;
    return LEFT + ((at - since) / (until - since)) * (this.width - LEFT - RIGHT);
  }

  y(value) {
    const [low, high] = this.plot.range;
    return TOP + (1 - (value - low) / (high - low)) * (this.height - TOP - BOTTOM);
  }

  middle(start) {
    const { since, until, bin_seconds: bin } = this.axis;
    return (Math.max(start, since) + Math.min(start + bin, until)) / 2;
  }

  draw() {
    this.width = Math.max(this.figure.clientWidth, 160);
    this.height = this.plot.height;
    const { width, height, plot, axis } = this;
    const picture = svg("svg", { width, height, role: "img", "aria-label": plot.title });
    for (const value of valueTicks(...plot.range, 4)) {
      picture.append(svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: this.y(value), y2: this.y(value) }));
      picture.append(svg("text", { class: "end", x: LEFT - 6, y: this.y(value) + 4 }, plot.form(value)));
    }
    for (const band of plot.bands ?? []) {
      picture.append(svg("line", { class: "mark", x1: LEFT, x2: width - RIGHT, y1: this.y(band.floor), y2: this.y(band.floor) }));
    }
    const spansDays = axis.until - axis.since > 1.5 * DAY;
    let free = 0;
    for (const at of timeTicks(axis.since, axis.until, width / (spansDays ? 88 : 56))) {
      const words = spansDays ? (at % DAY ? utc(at, true) : utc(at, true).slice(0, 5)) : utc(at);
      const half = 3.3 * words.length;
      if (this.x(at) - half < free || this.x(at) + half > width) continue;
      picture.append(svg("text", { class: "middle", x: this.x(at), y: height - 7 }, words));
      free = this.x(at) + half + 6;
    }
    this.drawMarkers(picture);
    for (const line of plot.lines) picture.append(this.drawLine(line));
    this.cursor = svg("line", { class: "cursor", y1: TOP, y2: height - BOTTOM });
    this.selected = svg("rect", { class: "selected", y: TOP, height: height - TOP - BOTTOM, width: 0 });
    picture.append(this.selected, this.cursor);
    this.figure.querySelector("svg")?.remove();
    this.figure.append(picture);
  }

  drawMarkers(picture) {
    let free = LEFT;
    for (const marker of this.axis.markers) {
      const x = this.x(marker.at);
      if (x < LEFT) continue;
      picture.append(svg("line", { class: `change ${marker.kind}`, x1: x, x2: x, y1: TOP - 4, y2: this.height - BOTTOM }));
      const words = marker.text.length > 22 ? `${marker.text.slice(0, 21)}…` : marker.text;
      // Where changes crowd, only the first is named; the list below has all.
      if (x < free || x + 6.2 * words.length > this.width) continue;
      picture.append(svg("text", { x: x + 3, y: TOP - 8 }, words));
      free = x + 6.2 * words.length + 8;
    }
  }

  drawLine(line) {
    const group = svg("g", { class: line.css });
    const spot = (one, value) => `${this.x(this.middle(one.start))},${this.y(value)}`;
    for (const run of runs(line.points, this.axis.bin_seconds)) {
      const hasInterval = run[0].low !== undefined;
      if (run.length > 1) {
        const ribbon = [...run.map((one) => spot(one, one.high)), ...run.map((one) => spot(one, one.low)).reverse()];
        if (hasInterval) group.append(svg("polygon", { class: "ribbon", points: ribbon.join(" ") }));
        group.append(svg("polyline", { class: "trend", points: run.map((one) => spot(one, one.value)).join(" ") }));
      } else if (hasInterval) {
        const x = this.x(this.middle(run[0].start));
        group.append(svg("line", { class: "whisker", x1: x, x2: x, y1: this.y(run[0].low), y2: this.y(run[0].high) }));
      }
    }
    const radius = line.points.length > this.width / 14 ? 2 : 3.5;
    for (const one of line.points) {
      group.append(svg("circle", { class: "dot", cx: this.x(this.middle(one.start)), cy: this.y(one.value), r: radius }));
    }
    return group;
  }

  // The moment under the pointer.
  moment(event) {
    const { since, until } = this.axis;
    const inside = event.clientX - this.figure.getBoundingClientRect().left - LEFT;
    return Math.min(Math.max(since + (inside / (this.width - LEFT - RIGHT)) * (until - since), since), until);
  }

  down(event) {
    if (event.button !== 0) return;
    this.dragged = { from: this.moment(event), x: event.clientX };
    if (event.isTrusted) this.figure.setPointerCapture(event.pointerId);
  }

  move(event) {
    const at = this.moment(event);
    if (this.dragged) {
      const [from, to] = [this.dragged.from, at].sort((a, b) => a - b);
      this.selected.setAttribute("x", this.x(from));
      this.selected.setAttribute("width", Math.max(this.x(to) - this.x(from), 0));
    }
    this.point(at);
  }

  up(event) {
    const { dragged } = this;
    this.dragged = null;
    this.selected.setAttribute("width", 0);
    if (!dragged || Math.abs(event.clientX - dragged.x) < MIN_DRAG) return;
    this.onRange(...[dragged.from, this.moment(event)].sort((a, b) => a - b));
  }

  leave() {
    this.dragged = this.at = null;
    this.tooltip.hidden = true;
    this.cursor?.classList.remove("on");
    this.selected?.setAttribute("width", 0);
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") this.leave();
    if (!step) return;
    event.preventDefault();
    const { since, until, bin_seconds: bin } = this.axis;
    const start = this.at === null ? (step > 0 ? since : until) : this.at + step * bin;
    this.point(Math.min(Math.max(start, since), until - 1));
  }

  // Shows what lies in the bin of a moment.
  point(at) {
    const { since, until, bin_seconds: bin, markers } = this.axis;
    const start = Math.floor(at / bin) * bin;
    this.at = at;
    const values = this.plot.lines.flatMap((line) => {
      const one = line.points.find((candidate) => candidate.start === start);
      return one ? [el("div", {}, el("span", { class: `swatch ${line.css}` }), `${line.name}  ${one.words}`)] : [];
    });
    const changes = markers.filter((marker) => marker.at >= start && marker.at < start + bin).map((marker) => el("div", { class: "muted" }, `${utc(marker.at)} ${marker.text}`));
    const title = el("div", { class: "muted" }, `${utc(start, true)} to ${utc(start + bin, bin >= DAY)} UTC`);
    this.tooltip.replaceChildren(title, ...(values.length ? values : [el("div", {}, "no value")]), ...changes);
    this.tooltip.hidden = false;
    const centre = this.x(Math.min(Math.max(this.middle(start), since), until));
    for (const end of ["x1", "x2"]) this.cursor.setAttribute(end, centre);
    this.cursor.classList.add("on");
    const room = this.width - this.tooltip.offsetWidth;
    const left = centre + 12 < room ? centre + 12 : centre - this.tooltip.offsetWidth - 12;
    this.tooltip.style.left = `${Math.max(0, Math.min(left, room))}px`;
  }
}
