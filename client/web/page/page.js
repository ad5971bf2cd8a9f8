// The page: one state a second, told by the server, drawn. Nothing is asked for while the page is hidden.

import { Chart } from './charts.js';
import { $, bytes, cls, each, el, number, say, table, time } from './dom.js';
import { draw, isFault } from './graph.js';

const KEPT = 300;
const AGAIN_MS = 3000;
const COLORS = 8;

let history = [];
let state = null;
let chosen = null;
let source = null;

const rate = (perSecond) => `${bytes(perSecond)}/s`;
const charts = {
  throughput: new Chart($('throughput'), rate),
  depth: new Chart($('depth'), number),
  bytes: new Chart($('bytes'), bytes),
};

function color(device) {
  const place = state.devices.findIndex((one) => one.name === device);
  return `d${place < 0 ? COLORS - 1 : place % COLORS}`;
}

function connect() {
  source?.close();
  source = new EventSource('/api/events');
  source.addEventListener('history', (event) => {
    history = JSON.parse(event.data);
  });
  source.addEventListener('state', (event) => {
    state = JSON.parse(event.data);
    const last = history[history.length - 1];
    if (state.sample && (!last || last.at_ms < state.sample.at_ms)) history = [...history, state.sample].slice(-KEPT);
    show();
  });
  source.addEventListener('error', () => {
    live('no connection', 'bad');
    document.body.classList.add('old');
    // The browser tries again by itself, unless it was refused.
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, AGAIN_MS);
  });
}

function live(text, name) {
  say($('live'), text);
  cls($('live'), `chip ${name}`);
}

function show() {
  const { status } = state;
  document.body.classList.toggle('old', !state.answers);
  $('away').hidden = state.answers;
  say($('web'), `vgem-web ${state.web}`);
  if (!state.answers) {
    live('no broker', 'bad');
    say($('away'), `No broker answers; it is asked again every second. ${state.why_not}`);
    return;
  }
  live('live', 'good');
  say($('about'), `${status.version}, process ${status.pid}, up ${time(status.uptime_ns)}`);
  tiles();
  waiting();
  devices();
  domains();
  clients();
  objects();
  lines();
}

function tiles() {
  const { status, waiting, devices } = state;
  const sum = (of) => devices.reduce((all, one) => all + of(one), 0);
  const waits = waiting.ways.length + waiting.ways_left_out;
  const all = [
    ['Clients', number(status.clients), waits ? `${waits} waiting` : 'none waits'],
    ['Objects', number(status.objects), bytes(status.object_bytes)],
    ['Pinned', bytes(status.pinned_bytes), ''],
    ['Jobs in flight', number(status.jobs_in_flight), `${number(status.queues)} queues`],
    ['Jobs per second', number(sum((one) => one.jobs_per_s)), ''],
    ['Throughput', rate(sum((one) => one.bytes_per_s)), ''],
  ];
  each($('tiles'), all, () => el('li', {}, el('span'), el('b'), el('small')), (node, texts) => {
    texts.forEach((text, place) => say(node.children[place], text));
  });
}

function waiting() {
  const { nodes, left_out: cut, ways, ways_left_out: more } = state.waiting;
  chosen = chosen && ways.find((way) => way.client === chosen.client);
  draw($('graph'), state.waiting, color, chosen);
  $('graph').toggleAttribute('hidden', nodes.length === 0);
  $('idle').hidden = nodes.length > 0;
  const count = ways.length + more;
  say($('waits'), count ? `${count} ${count === 1 ? 'client' : 'clients'}` : '');
  $('cut').hidden = !cut && !more;
  say($('cut'), `Not drawn: ${cut} jobs and points that wait as well. Not told: why ${more} more clients do.`);
  // Faults first, and then whoever has waited longest.
  const told = [...ways].sort((a, b) => isFault(state.waiting, b) - isFault(state.waiting, a));
  each($('ways'), told, () => el('li', { tabindex: 0 }, el('div'), el('p')), (node, way) => {
    cls(node, isFault(state.waiting, way) ? 'fault' : '');
    each(node.firstChild, way.lines, () => el('pre'), say);
    say(node.lastChild, others(way.others));
    node.onmouseenter = node.onfocus = () => choose(way);
    node.onmouseleave = node.onblur = () => choose(null);
  });
}

function others(count) {
  if (count === 0) return '';
  return count === 1 ? 'One other process has to act as well.' : `${count} other processes have to act as well.`;
}

function choose(way) {
  chosen = way;
  draw($('graph'), state.waiting, color, chosen);
}

const STATES = { ready: 'good', idle: '', starting: 'warn', 'backing off': 'warn', failed: 'bad' };

function devices() {
  const fact = (name) => el('div', {}, el('dt', {}, name), el('dd'));
  const make = () => el('li', {},
    el('div', { class: 'head' }, el('i', { class: 'dot' }), el('b'), el('span', { class: 'chip' })),
    el('p'),
    el('dl', {}, fact('busy'), fact('depth'), fact('throughput')),
    el('div', { class: 'meter' }, el('i')));
  each($('devices'), state.devices, make, (node, device) => {
    const [head, summary, facts, meter] = node.children;
    cls(node, color(device.name));
    say(head.children[1], device.name);
    say(head.children[2], device.state);
    cls(head.children[2], `chip ${STATES[device.state] ?? 'warn'}`);
    say(summary, device.summary);
    summary.title = device.operations.join(' ');
    const engines = Math.max(1, device.executors) * Math.max(1, device.processes);
    const share = Math.min(1, device.busy / engines);
    const values = [`${Math.round(share * 100)} % of ${engines}`, number(device.depth), rate(device.bytes_per_s)];
    values.forEach((value, place) => say(facts.children[place].children[1], value));
    meter.firstChild.style.transform = `scaleX(${share})`;
  });
}

function domains() {
  const { listed, all } = state.domains;
  say($('domains-count'), count(listed, all));
  const make = () => el('li', {}, el('div', { class: 'head' }, el('b'), el('small')), el('div'));
  each($('domains'), listed, make, (node, domain) => {
    const [head, quotas] = node.children;
    say(head.children[0], domain.origin === 'user' ? `user ${domain.name}` : domain.name);
    const clients = domain.clients === 1 ? 'one client' : `${domain.clients} clients`;
    say(head.children[1], ` ${domain.origin === 'user' ? '' : `${domain.origin}, `}${domain.state}, ${clients}`);
    const used = Object.entries(domain.quotas).filter(([name, quota]) => quota.used > 0 || name === 'bytes');
    const share = ({ used, limit }) => (limit ? Math.min(1, used / limit) : 0);
    used.sort((a, b) => share(b[1]) - share(a[1]));
    const row = () => el('div', { class: 'quota' }, el('span'), el('div', { class: 'meter' }, el('i')), el('b'));
    each(quotas, used, row, (line, [name, quota]) => {
      const [label, meter, text] = line.children;
      const format = name === 'bytes' ? bytes : number;
      say(label, name.replaceAll('_', ' '));
      meter.firstChild.style.transform = `scaleX(${share(quota)})`;
      cls(meter, share(quota) >= 0.9 ? 'meter full' : 'meter');
      say(text, `${format(quota.used)} of ${format(quota.limit)}`);
    });
  });
}

function clients() {
  const { listed, all } = state.clients;
  say($('clients-count'), count(listed, all));
  const waits = new Map(state.waiting.ways.map((way) => [way.client, time(way.waited_ns)]));
  table($('clients'), listed.map((one) => [
    [one.client, 'n'], [one.name, 'name'], [one.pid, 'n'], [one.uid, 'n wide'], [one.domain, 'n wide'],
    [bytes(one.bytes), 'n'], [one.handles, 'n wide'], [one.queues, 'n wide'], [one.jobs_in_flight, 'n'],
    [waits.get(one.client) ?? '', waits.has(one.client) ? 'red' : ''],
  ]));
}

function objects() {
  const { listed, all } = state.objects;
  say($('objects-count'), count(listed, all));
  table($('objects'), listed.map((one) => [
    one.object, [one.name, 'name'], [bytes(one.len), 'n'], one.state,
    [one.writer ? `${one.kind} ${one.writer}` : one.kind, 'wide'], [one.domain, 'n wide'], [one.clients.join(' '), 'wide'],
    [one.mapped_by.join(' '), 'wide'], [one.uses, 'n'], [one.poison.join(' '), 'red'],
  ]));
}

const count = (listed, all) => (listed.length < all ? `the first ${listed.length} of ${number(all)}` : number(all));

function lines() {
  const names = state.devices.map((device) => device.name);
  const series = (of) => names.map((name) => ({
    name,
    color: color(name),
    points: history.filter((sample) => sample.devices[name]).map((sample) => [sample.at_ms, of(sample.devices[name])]),
  }));
  charts.throughput.show(series((device) => device.bytes_per_s));
  charts.depth.show(series((device) => device.depth));
  const memory = (name, color, of) => ({ name, color, points: history.map((sample) => [sample.at_ms, of(sample)]) });
  charts.bytes.show([memory('charged', 'd0', (one) => one.bytes), memory('pinned', 'd3 dashed', (one) => one.pinned)]);
}

document.addEventListener('visibilitychange', () => {
  if (document.hidden) source?.close();
  else connect();
});
connect();
