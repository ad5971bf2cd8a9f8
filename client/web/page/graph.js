// What waits for what: columns from who waits to who has to act. Places come from the server; this draws.

import { cls, svg } from './dom.js';

const [WIDTH, HEIGHT, ACROSS, DOWN] = [240, 46, 40, 12];
const QUARTER = (HEIGHT + DOWN) / 4;
const INDENT = 18;
const ROOM = WIDTH - INDENT - 8;

// Draws `waiting`; of a way that is chosen all that is not on it is dimmed.
export function draw(node, waiting, color, chosen) {
  const { nodes, edges } = waiting;
  const columns = Math.max(0, ...nodes.map((one) => one.column + 1));
  const x = (column) => 1 + column * (WIDTH + ACROSS);
  const y = (top) => 2 + top * QUARTER;
  const on = chosen && new Set(chosen.nodes);
  const dim = (lit) => (on && !lit ? ' other' : '');
  // The ways to who has to act; those to somebody who does not act are faults.
  const ways = new Map();
  for (const way of waiting.ways) {
    const fault = isFault(waiting, way);
    way.nodes.forEach((place, step) => {
      for (const key of [place, `${place} ${way.nodes[step + 1]}`]) ways.set(key, ways.get(key) || fault);
    });
  }
  const mark = (key) => (ways.get(key) ? ' way fault' : ways.has(key) ? ' way' : '');

  const drawn = [svg('defs', {}, ...['', ' way', ' way fault'].map(arrow))];
  // Faults are drawn last, above the rest.
  const key = (edge) => `${edge.from} ${edge.to}`;
  for (const edge of [...edges].sort((a, b) => mark(key(a)).length - mark(key(b)).length)) {
    drawn.push(svg('path', {
      class: `edge${mark(key(edge))}${dim(on && on.has(edge.from) && on.has(edge.to))}`,
      d: line(nodes[edge.from], nodes[edge.to], edge.bends, x, y),
      'marker-end': `url(#${arrowId(mark(key(edge)))})`,
    }));
  }
  nodes.forEach((one, place) => {
    drawn.push(box(one, x(one.column), y(one.top), color(one.device), mark(place) + dim(on && on.has(place))));
  });

  const lowest = Math.max(0, ...nodes.map((one) => y(one.top) + HEIGHT), ...edges.flatMap((edge) => edge.bends).map((top) => y(top) + QUARTER));
  const size = [Math.max(1, columns * (WIDTH + ACROSS) - ACROSS + 2), lowest + 2];
  node.setAttribute('width', size[0]);
  node.setAttribute('height', size[1]);
  node.setAttribute('viewBox', `0 0 ${size[0]} ${size[1]}`);
  cls(node, on ? 'chosen' : '');
  node.replaceChildren(...drawn);
  node.querySelectorAll('text').forEach(shorten);
}

// From the right of one to the left of the other, and straight through the columns between.
function line(from, to, bends, x, y) {
  let [at, down] = [x(from.column) + WIDTH, y(from.top) + HEIGHT / 2];
  let path = `M${at},${down}`;
  const curve = (across, below) => {
    const half = Math.max(16, (across - at) / 2);
    path += `C${at + half},${down} ${across - half},${below} ${across},${below}`;
  };
  bends.forEach((top, step) => {
    const column = x(from.column + 1 + step);
    const below = y(top) + QUARTER - DOWN / 2;
    curve(column, below);
    path += `H${column + WIDTH}`;
    [at, down] = [column + WIDTH, below];
  });
  curve(x(to.column) - 6, y(to.top) + HEIGHT / 2);
  return path;
}

// Whether who has to act on a way does not.
export function isFault(waiting, way) {
  return waiting.nodes[way.nodes[way.nodes.length - 1]]?.stands ?? false;
}

function box(one, x, y, color, marks) {
  const round = one.kind === 'client' ? HEIGHT / 2 : 8;
  const group = svg('g', { class: one.kind + (one.stands ? ' stands' : '') + marks, transform: `translate(${x},${y})` });
  group.append(svg('title', {}, `${one.title}\n${one.note}`));
  group.append(svg('rect', { class: 'box', width: WIDTH, height: HEIGHT, rx: round }));
  if (one.device) group.append(svg('rect', { class: `stripe ${color}`, x: 7, y: 9, width: 4, height: HEIGHT - 18, rx: 2 }));
  group.append(svg('text', { x: INDENT, y: 20 }, one.title));
  group.append(svg('text', { x: INDENT, y: 36, class: 'note' }, one.note));
  return group;
}

// What is too long for its box ends in dots; all of it is in the title.
function shorten(text) {
  const length = text.getComputedTextLength();
  if (length <= ROOM) return;
  const letters = [...text.textContent];
  text.textContent = `${letters.slice(0, Math.floor((letters.length * ROOM) / length) - 1).join('')}…`;
}

const arrowId = (marks) => `arrow${marks.replaceAll(' ', '-')}`;

function arrow(marks) {
  const size = { markerWidth: 8, markerHeight: 8, refX: 2, refY: 4, orient: 'auto', markerUnits: 'userSpaceOnUse' };
  return svg('marker', { id: arrowId(marks), ...size }, svg('polygon', { class: `arrow${marks}`, points: '0,0 8,4 0,8' }));
}
