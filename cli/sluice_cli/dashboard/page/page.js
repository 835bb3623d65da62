const SYMBOLS = { good: "✔", bad: "✖", held: "॥", warn: "⚠", busy: "◌", quiet: "·" };
const drawn = new Map();
let heard = 0;

const at = text => new Date(text).getTime();
const percent = (value, digits = 1) => value === null || value === undefined ? "–" : `${(100 * value).toFixed(digits)} %`;
const pill = (mood, text) => html("span", { class: `pill ${mood}` }, html("span", { "aria-hidden": "true" }, SYMBOLS[mood] || "·"), text);

function facts(rows) {
  return rows.length ? html("dl", {}, rows.flatMap(([label, text]) => [html("dt", {}, label), html("dd", {}, text)])) : null;
}

function numbers(id, heads, rows) {
  const head = html("thead", {}, html("tr", {}, heads.map(name => html("th", { scope: "col" }, name))));
  const body = html("tbody", {}, rows.map(row => html("tr", {}, row.map(cell => html("td", {}, String(cell))))));
  return html("details", { id }, html("summary", {}, "The numbers"), html("div", { class: "wide" }, html("table", {}, head, body)));
}

function chain(nodes) {
  return html("ol", { class: "chain", "aria-label": "From traces to weight" }, nodes.map(node =>
    html("li", { class: node.name ? node.mood : "none", "data-kind": node.kind },
      html("h3", {}, node.title),
      html("p", { class: "who" }, node.name || "none yet"),
      node.name ? pill(node.mood, node.phase) : null,
      facts(node.facts))));
}

function steps(rollout, mood) {
  return html("ol", { class: "steps", "aria-label": "Steps" }, rollout.steps.map(step => {
    const weight = step.mirror ? `mirrors ${step.mirror} %` : `${step.weight} %`;
    const text = step.state === "present" ? step.waiting : step.state === "done" ? "done" : `${step.soak}, ${step.minRuns ?? "–"} runs`;
    const css = step.state === "present" ? `present ${mood}` : step.state === "done" ? "done" : "";
    return html("li", { class: css, "aria-current": step.state === "present" ? "step" : null }, html("b", {}, weight), text);
  }));
}

// One piece of line for each step: an e-process starts anew with it.
function pieces(points, value) {
  const found = new Map();
  for (const point of points) {
    const y = value(point);
    if (y === null || y === undefined) continue;
    const key = `${point.round}/${point.step}`;
    if (!found.has(key)) found.set(key, []);
    found.get(key).push([at(point.at), y]);
  }
  return [...found.values()];
}

function boundaries(rollout) {
  const marks = [];
  let before = null;
  for (const point of rollout.points) {
    const key = `${point.round}/${point.step}`;
    const step = rollout.steps[point.step - 1];
    if (before !== null && key !== before) marks.push({ t: at(point.at), text: step ? `step ${point.step}: ${step.weight} %` : `step ${point.step}` });
    before = key;
  }
  return marks;
}

function shares(id, rollout) {
  const desired = rollout.weights.map(w => [at(w.at), w.desired]);
  const actual = rollout.weights.filter(w => w.actual !== null).map(w => [at(w.at), w.actual]);
  const measured = rollout.points.filter(p => p.share !== null).map(p => [at(p.at), p.share]);
  if (!desired.length) return null;
  const w = rollout.weight;
  const text = `The candidate should have ${w.desired} %, the route gives it ${w.actual} %` +
    (w.measured === null ? "." : `, and it served ${w.measured.toFixed(1)} % of the step's runs.`);
  // A share of 1 % must not be a line on the floor.
  const most = Math.max(...[...desired, ...actual, ...measured].map(p => p[1]));
  const chart = lineChart({
    title: "Candidate's share of the traffic", text, low: 0, high: [4, 10, 20, 40, 60].find(y => y >= 1.3 * most) ?? 100, unit: " %", marks: boundaries(rollout),
    series: [
      { name: "desired", css: "desired", pieces: [desired], step: true },
      { name: "actual", css: "actual", pieces: [actual], step: true, area: true },
      { name: "measured", css: "measured candidate", pieces: [measured], dots: true, loose: true },
    ],
  });
  const rows = rollout.weights.map(e => [e.at, e.desired, e.actual ?? "–"]);
  return html("section", {}, html("h3", {}, "Share of the traffic"), html("p", { class: "sub" }, text), chart,
    numbers(`${id}-shares`, ["instant", "desired %", "actual %"], rows));
}

function evidence(id, rollout) {
  const harm = pieces(rollout.points, p => p.harm), safe = pieces(rollout.points, p => p.non_inferiority);
  const head = html("h3", {}, "Evidence over time");
  if (!harm.length && !safe.length) {
    const why = rollout.method === "tolerance" ? "Method tolerance compares rates; it has no e-values." : "No analysis has e-values yet.";
    return html("section", {}, head, html("p", { class: "sub" }, why));
  }
  const last = rollout.points.filter(p => p.harm !== null).at(-1);
  const text = `E-values, on a logarithmic scale. Harm ${number(last.harm)} of ${number(last.harm_threshold)}, ` +
    `non-inferiority ${number(last.non_inferiority)} of ${number(last.threshold)}: what reaches its dashed line is shown.`;
  const chart = lineChart({
    title: "E-values against their thresholds", text, log: true, marks: boundaries(rollout),
    series: [
      { name: "harm", css: "harm", pieces: harm, dots: true },
      { name: "non-inferiority", css: "safe", pieces: safe, dots: true },
      // The error level is spent over the steps, so each has a threshold of its own.
      { limit: "harm is shown", css: "limit harm", pieces: pieces(rollout.points, p => p.harm_threshold), step: true },
      { limit: "non-inferiority is shown", css: "limit safe", pieces: pieces(rollout.points, p => p.threshold), step: true },
    ],
  });
  const rows = rollout.points.map(p => [p.at, p.step, p.runs, number(p.harm), number(p.non_inferiority), p.verdict]);
  return html("section", {}, head, html("p", { class: "sub" }, text), chart,
    numbers(`${id}-evidence`, ["instant", "step", "runs", "harm", "non-inferiority", "verdict"], rows));
}

function words(rollout) {
  return html("section", { class: "words" }, html("h3", {}, "In words"), facts(rollout.facts));
}

function arms(rollout) {
  if (!rollout.arms.some(arm => arm.runs)) return null;
  const high = Math.max(0.02, ...rollout.arms.map(arm => arm.interval ? arm.interval[1] : 0)) * 1.1;
  const rows = rollout.arms.map(arm => {
    const spoken = `${arm.name}: ${percent(arm.rate, 2)} of ${arm.runs} runs escalated` +
      (arm.interval ? `, 95 % interval ${percent(arm.interval[0], 2)} to ${percent(arm.interval[1], 2)}` : "");
    return html("tr", {}, html("th", { scope: "row" }, arm.name), html("td", { class: "number" }, String(arm.runs)),
      html("td", { class: "number" }, String(arm.escalated)), html("td", { class: "number" }, percent(arm.rate, 2)),
      html("td", {}, intervalBar({ value: arm.rate, interval: arm.interval, high, css: arm.name, label: spoken })));
  });
  const heads = ["arm", "matured runs", "escalated", "rate", `95 % interval, 0 to ${percent(high)}`];
  const head = html("tr", {}, heads.map((name, i) => html("th", { scope: "col", class: i && i < 4 ? "number" : null }, name)));
  const sub = rollout.waiting ? `Of the present step: ${rollout.waiting}.` : "Of the last step that was measured.";
  return html("section", {}, html("h3", {}, "Escalations by arm"), html("p", { class: "sub" }, sub),
    html("div", { class: "wide" }, html("table", {}, html("thead", {}, head), html("tbody", {}, rows))));
}

const GATE_MOODS = { Pass: "good", Fail: "bad", Missing: "quiet", Inconclusive: "warn" };

function gates(list) {
  if (!list.length) return null;
  const rows = list.map(gate => {
    const high = gate.direction === "min" ? 1 : Math.max(2.5 * (gate.threshold ?? 0), gate.interval ? gate.interval[1] : 0, gate.value ?? 0, 0.01);
    const sign = gate.direction === "min" ? "≥" : "≤";
    const asks = gate.threshold === null ? "–" : `${sign} ${number(gate.threshold)}`;
    const spoken = `${gate.name}: ${number(gate.value)}, asks ${asks}` +
      (gate.interval ? `, 95 % interval ${number(gate.interval[0])} to ${number(gate.interval[1])}` : "") + `, ${gate.verdict}`;
    const mood = GATE_MOODS[gate.verdict] || "quiet";
    const css = mood === "good" || mood === "bad" ? mood : "quiet";
    const bar = gate.value === null ? "–" : intervalBar({ value: gate.value, interval: gate.interval, threshold: gate.threshold, passes: gate.direction, high, css, label: spoken });
    return html("tr", {}, html("th", { scope: "row" }, gate.name.replaceAll("_", " ")), html("td", { class: "number" }, number(gate.value)),
      html("td", { class: "number" }, asks), html("td", { class: "number" }, gate.n === null || gate.n === undefined ? "–" : String(gate.n)),
      html("td", {}, bar), html("td", {}, pill(mood, gate.verdict)), html("td", {}, gate.note));
  });
  const heads = ["gate", "value", "asks", "n", "95 % interval, passing side tinted", "verdict", "note"];
  const head = html("tr", {}, heads.map((name, i) => html("th", { scope: "col", class: i > 0 && i < 4 ? "number" : null }, name)));
  return html("section", { class: "gates" }, html("h3", {}, "Gates"), html("p", { class: "sub" }, `PromotionScorecard ${list[0].scorecard}`),
    html("div", { class: "wide" }, html("table", {}, html("thead", {}, head), html("tbody", {}, rows))));
}

function article(lineage, everywhere) {
  const id = `lineage-${[...lineage.id].map(c => /[a-z0-9]/i.test(c) ? c : "-").join("")}`;
  const parts = [
    html("header", {}, html("h2", { id: `${id}-title` }, lineage.name), pill(lineage.mood, lineage.phase),
      everywhere ? html("span", { class: "space" }, `namespace ${lineage.namespace}`) : null),
    html("p", { class: "message" }, lineage.message),
    chain(lineage.nodes),
  ];
  const rollout = lineage.rollout;
  if (rollout) {
    parts.push(steps(rollout, lineage.mood));
    parts.push(html("div", { class: "plots" }, shares(id, rollout), evidence(id, rollout), arms(rollout), words(rollout)));
  }
  parts.push(gates(lineage.gates));
  if (lineage.problems.length) parts.push(html("p", { class: "sub" }, `Not read: ${lineage.problems.slice(0, 3).join("; ")}`));
  return html("article", { id, "aria-labelledby": `${id}-title` }, parts);
}

function draw(state) {
  heard = Date.now();
  document.getElementById("place").textContent = `${state.namespace} on ${state.server}`;
  const problem = document.getElementById("problem");
  problem.hidden = !state.problem;
  problem.textContent = state.problem;
  const everywhere = new Set(state.lineages.map(l => l.namespace)).size > 1;
  const main = document.getElementById("main");
  const wanted = new Set(state.lineages.map(l => l.id));
  for (const [id, [, node]] of drawn) if (!wanted.has(id)) { node.remove(); drawn.delete(id); }
  main.querySelector(".empty")?.remove();
  for (const lineage of state.lineages) {
    const text = JSON.stringify([lineage, everywhere]);
    const before = drawn.get(lineage.id);
    if (before && before[0] === text) { main.append(before[1]); continue; }
    const node = article(lineage, everywhere);
    if (before) {
      for (const open of before[1].querySelectorAll("details[open]")) node.querySelector(`#${CSS.escape(open.id)}`)?.setAttribute("open", "");
      before[1].replaceWith(node);
    } else main.append(node);
    drawn.set(lineage.id, [text, node]);
  }
  if (!state.lineages.length) main.replaceChildren(html("p", { class: "empty" }, "No objects of Sluice here yet. Apply a TraceDataset, and it appears."));
  const links = state.lineages.map(l => html("li", {}, html("a", { href: `#${drawn.get(l.id)[1].id}` }, html("span", { "aria-hidden": "true" }, SYMBOLS[l.mood]), l.name)));
  document.getElementById("index").replaceChildren(html("ul", {}, state.lineages.length > 1 ? links : []));
  document.title = state.lineages.some(l => l.mood === "bad") ? "✖ Sluice" : "Sluice";
  document.body.dataset.ready = "true";
}

function lit(on, text) {
  const live = document.getElementById("live");
  live.className = `live ${on ? "on" : "off"}`;
  if (live.textContent !== text) live.textContent = text;
}

function listen() {
  const stream = new EventSource("api/stream");
  stream.onopen = () => lit(true, "live");
  stream.onmessage = event => { lit(true, "live"); draw(JSON.parse(event.data)); };
  stream.onerror = () => lit(false, heard ? `lost at ${clock(Date.now(), 60e3)}; trying again` : "no answer; trying again");
}

fetch("api/state").then(answer => answer.json()).then(draw).catch(() => lit(false, "no answer; trying again")).finally(listen);
