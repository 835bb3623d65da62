"use strict";
// Pictures as SVG. Every text goes in as text; nothing here builds markup from a string.

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  for (const child of children.flat()) if (child !== null) node.append(child);
  return node;
}

function html(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) if (value !== null) node.setAttribute(name, value);
  for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child);
  return node;
}

const WIDTH = 620, HEIGHT = 235, LEFT = 46, RIGHT = 104, TOP = 14, BOTTOM = 30;

function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e5)) {
    const power = Math.floor(Math.log10(size));
    const mantissa = value / 10 ** power;
    return `${Number(mantissa.toPrecision(2))}·10${[...String(power)].map(c => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] || "⁻").join("")}`;
  }
  return String(Number(value.toPrecision(digits)));
}

function timeTicks(from, to) {
  const sizes = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800];
  const size = 1000 * (sizes.find(s => (to - from) / (1000 * s) <= 6) || 2592000);
  const shift = new Date(from).getTimezoneOffset() * 60000;
  const ticks = [];
  for (let t = Math.ceil((from - shift) / size) * size + shift; t <= to; t += size) ticks.push(t);
  return ticks;
}

function clock(t, span) {
  const options = span > 2 * 86400e3 ? { day: "numeric", month: "short" }
    : { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...(span < 180e3 ? { second: "2-digit" } : {}) };
  return new Intl.DateTimeFormat(undefined, options).format(t);
}

// Labels at the line ends, moved apart where they would overlap.
function spread(labels, least, low, high) {
  labels.sort((a, b) => a.y - b.y);
  let before = low - least;
  for (const label of labels) before = label.at = Math.max(label.y, before + least);
  let after = high + least;
  for (const label of [...labels].reverse()) after = label.at = Math.min(label.at, after - least);
  return labels;
}

// series: {name or limit, css, pieces: [[[t, y], …], …], step, dots, area}; marks: {t, text}.
function lineChart({ title, text, series, marks = [], log = false, unit = "", low, high }) {
  const flat = series.flatMap(s => s.pieces.flat());
  const values = flat.map(p => p[1]).filter(y => !log || y > 0);
  let from = Math.min(...flat.map(p => p[0])), to = Math.max(...flat.map(p => p[0]));
  if (to - from < 60e3) { const middle = (from + to) / 2; from = middle - 30e3; to = middle + 30e3; }
  const floor = low ?? (log ? Math.min(0.1, ...values) : Math.min(0, ...values));
  const top = high ?? (log ? Math.max(...values) * 4 : Math.max(...values, floor + 1e-9) * 1.1);
  const scale = log ? Math.log10 : v => v;
  const [a, b] = [scale(Math.max(floor, log ? 1e-12 : -Infinity)), scale(top)];
  const x = t => LEFT + (WIDTH - LEFT - RIGHT) * (t - from) / (to - from);
  const y = v => {
    const part = (scale(Math.max(v, log ? 1e-12 : v)) - a) / (b - a || 1);
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - Math.max(0, Math.min(1, part)));
  };
  const nodes = [svg("title", {}, title), svg("desc", {}, text)];
  const levels = [];
  if (log) {
    const step = Math.max(1, Math.ceil((b - a) / 5));
    for (let e = Math.ceil(a); e <= b; e += step) levels.push(10 ** e);
  } else for (let i = 0; i <= 4; i++) levels.push(floor + (top - floor) * i / 4);
  for (const level of levels) {
    nodes.push(svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(level), y2: y(level) }));
    nodes.push(svg("text", { x: LEFT - 7, y: y(level) + 4, "text-anchor": "end" }, number(level) + unit));
  }
  for (const t of timeTicks(from, to))
    nodes.push(svg("text", { x: x(t), y: HEIGHT - 10, "text-anchor": "middle" }, clock(t, to - from)));
  nodes.push(svg("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }));
  for (const mark of marks) {
    if (mark.t < from || mark.t > to) continue;
    nodes.push(svg("line", { class: "mark-line", x1: x(mark.t), x2: x(mark.t), y1: TOP - 6, y2: HEIGHT - BOTTOM }));
    nodes.push(svg("text", { x: x(mark.t) + 4, y: TOP + 1 }, mark.text));
  }
  const ends = [];
  for (const one of series) {
    for (const piece of one.pieces) {
      if (!piece.length) continue;
      let d = `M${x(piece[0][0])} ${y(piece[0][1])}`;
      for (const [t, v] of piece.slice(1)) d += one.step ? `H${x(t)}V${y(v)}` : `L${x(t)} ${y(v)}`;
      if (one.area) {
        const last = piece[piece.length - 1];
        nodes.push(svg("path", { class: `area ${one.css}`, d: `${d}V${HEIGHT - BOTTOM}H${x(piece[0][0])}Z`, "data-end": last[0] }));
      }
      if (!one.loose) nodes.push(svg("path", { class: `line ${one.css}`, d }));
      if (one.dots || (piece.length === 1 && !one.limit))
        for (const [t, v] of piece) nodes.push(svg("circle", { class: `dot ${one.css}`, cx: x(t), cy: y(v), r: 3.5 }));
    }
    const last = one.pieces.flat().at(-1);
    if (last && one.limit) {
      const [t, v] = one.pieces.at(-1)[0];
      nodes.push(svg("text", { x: x(t) + 5, y: y(v) - 5, class: one.css }, `${one.limit} at ${number(v)}`));
    } else if (last) ends.push({ y: y(last[1]), x: x(last[0]), one, value: last[1] });
  }
  for (const end of spread(ends, 27, TOP + 8, HEIGHT - BOTTOM - 14)) {
    nodes.push(svg("text", { x: WIDTH - RIGHT + 8, y: end.at, class: `strong ${end.one.css}` }, number(end.value) + unit));
    nodes.push(svg("text", { x: WIDTH - RIGHT + 8, y: end.at + 12, class: end.one.css }, end.one.name));
  }
  return svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}. ${text}` }, nodes);
}

// A rate with its interval on a scale of its own, the threshold as a tick, the passing side tinted.
function intervalBar({ value, interval, threshold, passes, high, css, label }) {
  const width = 220, height = 26, end = v => 4 + (width - 8) * Math.max(0, Math.min(1, v / high));
  const nodes = [svg("title", {}, label)];
  nodes.push(svg("rect", { class: "track", x: 4, y: 12, width: width - 8, height: 2, rx: 1 }));
  if (threshold !== null && threshold !== undefined) {
    const [from, to] = passes === "min" ? [end(threshold), width - 4] : [4, end(threshold)];
    nodes.push(svg("rect", { class: "zone", x: from, y: 5, width: Math.max(0, to - from), height: 16, rx: 2 }));
  }
  if (interval) nodes.push(svg("rect", {
    class: `bar span ${css}`, x: end(interval[0]), y: 9, width: Math.max(2, end(interval[1]) - end(interval[0])), height: 8, rx: 4,
  }));
  if (threshold !== null && threshold !== undefined)
    nodes.push(svg("line", { class: "tick", x1: end(threshold), x2: end(threshold), y1: 3, y2: 23 }));
  if (value !== null && value !== undefined) nodes.push(svg("circle", { class: `dot ${css}`, cx: end(value), cy: 13, r: 5 }));
  return svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, nodes);
}
