// Making and changing elements, and numbers as people read them. Whatever a peer chose becomes text, never markup.

export const $ = (id) => document.getElementById(id);

const SVG = 'http://www.w3.org/2000/svg';

const made = (node, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};
export const el = (tag, attributes = {}, ...children) => made(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) => made(document.createElementNS(SVG, tag), attributes, children);

// Sets what differs, so that what somebody has selected stays so.
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function cls(node, name) {
  if (node.getAttribute('class') !== name) node.setAttribute('class', name);
}

// One child per item, made by `make` where there are too few, changed by `change` in any case.
export function each(parent, items, make, change) {
  while (parent.children.length > items.length) parent.lastElementChild.remove();
  items.forEach((item, place) => {
    if (place >= parent.children.length) parent.append(make());
    change(parent.children[place], item, place);
  });
}

// Rows of a table; a cell is a text, or [text, class].
export function table(body, rows) {
  each(body, rows, () => el('tr'), (row, cells) => {
    each(row, cells, () => el('td'), (node, cell) => {
      const [text, name] = Array.isArray(cell) ? cell : [cell, ''];
      say(node, String(text));
      cls(node, name);
    });
  });
}

export function bytes(count) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || count >= 100 || count === Math.round(count) ? 0 : 1;
  return `${count.toFixed(digits)} ${units[unit]}`;
}

export function number(value) {
  return value >= 100 || value === Math.round(value) ? Math.round(value).toLocaleString('en-US') : value.toFixed(1);
}

export function time(ns) {
  if (ns < 1e6) return `${Math.round(ns / 1e3)} us`;
  if (ns < 1e9) return `${Math.round(ns / 1e6)} ms`;
  const s = ns / 1e9;
  if (s < 60) return `${s.toFixed(1)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}
