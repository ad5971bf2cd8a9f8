// Lines over the last minutes. A gap is a time in which nobody watched.

import { cls, each, el, say, svg } from './dom.js';

const HEIGHT = 170;
const [TOP, RIGHT, BOTTOM, LEFT] = [8, 8, 18, 62];
const LONGEST_MS = 300_000;
const SHORTEST_MS = 60_000;
const GAP_MS = 35_000;
const TICKS = 3;

export class Chart {
  constructor(figure, format) {
    this.format = format;
    this.legend = el('div', { class: 'legend' });
    this.svg = svg('svg', { role: 'img', 'aria-label': figure.textContent });
    figure.append(this.legend, this.svg);
    this.series = [];
    this.at = null;
    this.svg.addEventListener('pointermove', (event) => this.point(event.clientX - this.svg.getBoundingClientRect().left));
    this.svg.addEventListener('pointerleave', () => this.point(null));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  // Series are {name, color, points}, a point is [milliseconds, value]; the oldest first.
  show(series) {
    this.series = series;
    this.draw();
  }

  point(x) {
    this.at = x;
    this.draw();
  }

  draw() {
    const width = this.svg.clientWidth || 340;
    const all = this.series.flatMap((one) => one.points);
    if (all.length === 0) return;
    const last = Math.max(...all.map((point) => point[0]));
    const first = Math.min(...all.map((point) => point[0]));
    const span = Math.min(LONGEST_MS, Math.max(SHORTEST_MS, last - first));
    const top = ceiling(Math.max(...all.filter((point) => point[0] >= last - span).map((point) => point[1])));
    const x = (at) => LEFT + (1 - (last - at) / span) * (width - LEFT - RIGHT);
    const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
    const nodes = this.axes(width, top, span, y);
    for (const { color, points } of this.series) {
      for (const piece of pieces(points.filter((point) => point[0] >= last - span))) {
        const line = piece.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join('L');
        const [from, to] = [x(piece[0][0]), x(piece[piece.length - 1][0])];
        if (this.series.length < 3) nodes.push(svg('path', { class: `area ${color}`, d: `M${from},${y(0)}L${line}L${to},${y(0)}Z` }));
        nodes.push(svg('path', { class: `curve ${color}`, d: `M${line}` }));
      }
      const end = points[points.length - 1];
      if (end) nodes.push(svg('circle', { class: `end ${color}`, cx: x(end[0]), cy: y(end[1]), r: 3 }));
    }
    // Under the pointer, or now.
    const when = this.at === null ? last : Math.min(last, last - span + ((this.at - LEFT) / (width - LEFT - RIGHT)) * span);
    if (this.at !== null && this.at > LEFT) {
      const at = x(when);
      nodes.push(svg('line', { class: 'cross', x1: at, x2: at, y1: TOP, y2: y(0) }));
    }
    this.svg.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
    this.svg.replaceChildren(...nodes);
    this.name(when);
  }

  axes(width, top, span, y) {
    const nodes = [];
    for (let tick = 0; tick <= TICKS; tick += 1) {
      const value = (top * tick) / TICKS;
      nodes.push(svg('line', { class: 'grid', x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
      nodes.push(svg('text', { x: LEFT - 8, y: y(value) + 4, 'text-anchor': 'end' }, this.format(value)));
    }
    const minutes = `${Math.round(span / 60_000)} min ago`;
    nodes.push(svg('text', { x: LEFT, y: HEIGHT - 3 }, minutes));
    nodes.push(svg('text', { x: width - RIGHT, y: HEIGHT - 3, 'text-anchor': 'end' }, 'now'));
    return nodes;
  }

  name(when) {
    const make = () => el('span', {}, el('i'), el('em'), el('b'));
    each(this.legend, this.series, make, (node, { name, color, points }) => {
      const [dot, label, value] = node.children;
      cls(dot, `dot ${color}`);
      say(label, name);
      const near = points.reduce((best, point) => (Math.abs(point[0] - when) < Math.abs(best[0] - when) ? point : best), points[0]);
      say(value, near ? this.format(near[1]) : '');
    });
  }
}

// The next number above that is easy to divide by three.
function ceiling(most) {
  let step = 3;
  while (step < most) step *= 2;
  return step;
}

// Points that belong together.
function pieces(points) {
  const all = [];
  points.forEach((point, place) => {
    const before = points[place - 1];
    if (!before || point[0] - before[0] > GAP_MS) all.push([]);
    all[all.length - 1].push(point);
  });
  return all;
}
