"use strict";
// The data of the report are in #data (contents.py). Text is inserted as text, never as HTML.
const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function node(name, attributes, ...children) {
  const made = document.createElement(name);
  return fill(made, attributes, children);
}

function drawn(name, attributes, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// -- figures in words -----------------------------------------------------------------------------

const digits = (value, n = 3) => {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && size < 1e-4) return value.toExponential(n - 1);
  if (size >= 10 ** n) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(n)));
};
const percent = (value, n = 1) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(n)} %`);
const scaleOf = { top1: 100, macs: 1e-6 };
const unitOf = { top1: "%", macs: "MMACs" };
const shown = (axis, value) => value * (scaleOf[axis.kind] || 1);
const unit = (axis) => unitOf[axis.kind] || axis.unit;
const written = (axis, value) => {
  if (value === null || value === undefined) return "–";
  return axis.kind === "top1" ? percent(value) : `${digits(shown(axis, value))} ${unit(axis)}`;
};
// Which images an accuracy comes from, and how far the truth may be from it.
const images = (accuracy) => [`${accuracy.split} split`, accuracy.n === null ? "" : `n ${accuracy.n}`, interval(accuracy)].filter(Boolean).join(", ");
const interval = (accuracy) => (accuracy && accuracy.interval ? `95 % interval ${(100 * accuracy.interval[0]).toFixed(1)} to ${percent(accuracy.interval[1])}` : "");
const reported = (model) => model.accuracies.find((accuracy) => accuracy.split === "report");
const TOP1 = DATA.axes.find((axis) => axis.kind === "top1");
const modelOf = new Map(DATA.models.map((model) => [model.arch_id, model]));
// The data name a board by its device class. People read a short name, which the section of the boards explains.
const shortName = (deviceClass) => DATA.short_names[deviceClass];
const boardHeading = (deviceClass) => node("h3", { title: deviceClass }, shortName(deviceClass));
const metricName = (metric) => (metric === "top1" ? "top-1" : metric);
const label = (model) => (model.name ? `${model.name} ${model.arch_id}` : model.arch_id);

// -- charts ---------------------------------------------------------------------------------------

// Draws a frame with both axes. Returns {svg, x, y, box}, where x and y map values to pixels.
function chart({ width, height, xs, ys, log, whole, xName, yName, title }) {
  const box = { left: 60, right: width - 12, top: 10, bottom: height - 38 };
  const x = scale(xs, box.left, box.right, log);
  const y = scale(ys, box.bottom, box.top, false);
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": title });
  for (const tick of whole ? x.ticks.filter(Number.isInteger) : x.ticks) {
    svg.append(drawn("line", { class: "grid", x1: x(tick), x2: x(tick), y1: box.top, y2: box.bottom }));
    svg.append(drawn("text", { x: x(tick), y: box.bottom + 15, "text-anchor": "middle" }, digits(tick)));
  }
  for (const tick of y.ticks) {
    svg.append(drawn("line", { class: "grid", x1: box.left, x2: box.right, y1: y(tick), y2: y(tick) }));
    svg.append(drawn("text", { x: box.left - 6, y: y(tick) + 4, "text-anchor": "end" }, digits(tick)));
  }
  const middle = (box.top + box.bottom) / 2;
  svg.append(drawn("text", { class: "axis-name", x: (box.left + box.right) / 2, y: height - 5, "text-anchor": "middle" }, xName));
  svg.append(drawn("text", { class: "axis-name", x: 0, y: 0, "text-anchor": "middle", transform: `translate(11 ${middle}) rotate(-90)` }, yName));
  return { svg, x, y, box };
}

function scale(values, from, to, log) {
  const bend = log ? Math.log : (v) => v;
  let [low, high] = [Math.min(...values), Math.max(...values)].map(bend);
  if (!(high > low)) [low, high] = log ? [low - 0.5, high + 0.5] : [low - 0.5 * (Math.abs(low) || 1), high + 0.5 * (Math.abs(high) || 1)];
  const edge = 0.05 * (high - low);
  [low, high] = [low - edge, high + edge];
  const at = (value) => from + ((bend(value) - low) / (high - low)) * (to - from);
  at.ticks = log ? logTicks(Math.exp(low), Math.exp(high)) : ticks(low, high);
  return at;
}

function ticks(low, high) {
  const rough = (high - low) / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i += 1) found.push(i * step);
  return found;
}

function logTicks(low, high) {
  for (const leads of [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7]]) {
    const found = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e += 1) {
      for (const lead of leads) if (lead * 10 ** e >= low && lead * 10 ** e <= high) found.push(lead * 10 ** e);
    }
    if (found.length >= 4) return found;
  }
  return ticks(low, high);
}

// -- what is known of a model, shown beside the pointer or the focus ------------------------------

function explain(mark, model) {
  const show = () => {
    const rows = DATA.axes.map((axis) => {
      const [guess, truth] = [model.predicted[axis.name], model.measured[axis.name]];
      const p90 = truth && truth.p90 ? `, p90 ${digits(truth.p90)}` : "";
      const pictures = axis.kind === "top1" && truth && reported(model) ? ` (${images(reported(model))})` : "";
      return node("tr", {}, node("td", {}, axis.label), node("td", {}, written(axis, guess && guess.value)),
        node("td", {}, written(axis, truth && truth.value) + p90 + pictures));
    });
    const tip = byId("tip");
    tip.replaceChildren(
      node("p", { class: "id" }, label(model)), node("p", { class: "arch" }, model.arch),
      node("table", {}, node("tr", {}, ...["", "predicted", "measured"].map((t) => node("th", {}, t))), ...rows));
    tip.hidden = false;
    const [at, own] = [mark.getBoundingClientRect(), tip.getBoundingClientRect()];
    const left = Math.min(at.right + 10, document.documentElement.clientWidth - own.width - 8);
    const below = at.bottom + 10 + own.height < window.innerHeight || at.top < own.height + 10;
    tip.style.left = `${Math.max(8, left) + window.scrollX}px`;
    tip.style.top = `${(below ? at.bottom + 10 : at.top - own.height - 10) + window.scrollY}px`;
  };
  const hide = () => { byId("tip").hidden = true; };
  mark.addEventListener("mouseenter", show);
  mark.addEventListener("focus", show);
  mark.addEventListener("mouseleave", hide);
  mark.addEventListener("blur", hide);
}

// -- the budget -----------------------------------------------------------------------------------

// As ramnas_edge.runtime.choosing.choose: the best value within the budget, and among equals the fastest.
function choose(ladder, budget) {
  const fits = ladder.rungs.filter((rung) => rung.p90_ms <= budget);
  return fits.reduce((best, rung) => {
    const better = best === null || rung.value > best.value || (rung.value === best.value && rung.p90_ms < best.p90_ms);
    return better ? rung : best;
  }, null);
}

const P90S = DATA.ladders.flatMap((ladder) => ladder.rungs.map((rung) => rung.p90_ms));
const [LEAST, MOST] = [0.7 * Math.min(...P90S), 1.4 * Math.max(...P90S)];
const ofSlider = (position) => Number((LEAST * (MOST / LEAST) ** (position / 1000)).toPrecision(3));
const toSlider = (ms) => Math.round((1000 * Math.log(ms / LEAST)) / Math.log(MOST / LEAST));
let picked = new Set();

function setBudget(ms, from) {
  if (!(ms >= 0)) return;
  if (from !== "number") byId("budget-ms").value = String(ms);
  if (from !== "slider") byId("budget").value = String(toSlider(Math.max(ms, LEAST)));
  byId("budget").setAttribute("aria-valuetext", `${digits(ms, 4)} ms`);
  const picks = DATA.ladders.map((ladder) => choose(ladder, ms));
  picked = new Set(picks.filter((rung) => rung).map((rung) => rung.arch_id));
  byId("picks").replaceChildren(...DATA.ladders.map((ladder, i) => card(ladder, picks[i], ms)));
  byId("spoken").textContent = DATA.ladders.map((ladder, i) => `${shortName(ladder.device_class)}: ${picks[i] ? label(picks[i]) : "no model fits"}`).join("; ");
  drawFront(ms);
  for (const row of document.querySelectorAll("#models tr[data-id]")) row.classList.toggle("picked", picked.has(row.dataset.id));
}

function card(ladder, pick, ms) {
  const made = node("article", { class: pick ? "card" : "card none", "data-device-class": ladder.device_class, "data-task": ladder.task, "data-pick": pick ? pick.arch_id : "" });
  made.append(boardHeading(ladder.device_class));
  const answer = node("div");
  if (pick) {
    answer.append(node("p", { class: "pick" }, node("span", { class: "id" }, label(pick)),
      pick.accuracy === null ? "" : ` ${metricName(ladder.metric)} ${percent(pick.accuracy.value)}`));
    if (pick.accuracy !== null) answer.append(node("p", { class: "quiet" }, images(pick.accuracy)));
    const facts = [["p90", `${digits(pick.p90_ms)} ms`], ["median", `${digits(pick.median_ms)} ms`], ["below the budget by", percent(1 - pick.p90_ms / ms, 0)],
      ["MMACs", digits(pick.macs / 1e6)], ...(pick.energy_mj === null ? [] : [["energy", `${digits(pick.energy_mj)} mJ`]])];
    answer.append(node("ul", { class: "figures" }, ...facts.map(([name, value]) => node("li", {}, `${name} `, node("b", {}, value)))));
  } else {
    const fastest = ladder.rungs.reduce((a, b) => (b.p90_ms < a.p90_ms ? b : a));
    answer.append(node("p", { class: "pick" }, "no model fits"));
    answer.append(node("p", { class: "quiet" }, `the fastest, ${label(fastest)}, has a p90 of ${digits(fastest.p90_ms)} ms and misses by ${digits(fastest.p90_ms - ms)} ms`));
  }
  made.append(answer, ladderChart(ladder, pick, ms));
  made.append(node("p", { class: "quiet" }, `${ladder.task}; ${ladder.setup}; ${ladder.source}`));
  if (!ladder.whole_calls) made.append(node("p", { class: "quiet" }, "A budget is compared with whole calls, so add the time of resize and decode."));
  if (ladder.unknown) made.append(node("p", { class: "quiet" }, `${ladder.unknown} more model(s) have no latency on this board.`));
  return made;
}

function ladderChart(ladder, pick, ms) {
  const known = ladder.rungs.every((rung) => rung.accuracy !== null);
  const height = (rung) => (known ? 100 * rung.accuracy.value : rung.macs / 1e6);
  const { svg, x, y, box } = chart({ width: 360, height: 170, log: true, xs: [...ladder.rungs.map((r) => r.p90_ms), Math.min(Math.max(ms, LEAST), MOST)], ys: ladder.rungs.map(height),
    xName: "p90 (ms)", yName: known ? `${metricName(ladder.metric)} (%)` : "MMACs", title: `models on ${shortName(ladder.device_class)}` });
  const at = x(Math.min(Math.max(ms, LEAST), MOST));
  svg.append(drawn("line", { class: "budget-line", x1: at, x2: at, y1: box.top, y2: box.bottom }));
  for (const rung of ladder.rungs) {
    const state = rung === pick ? "rung picked" : rung.p90_ms <= ms ? "rung fits" : "rung";
    const mark = drawn("circle", { class: state, cx: x(rung.p90_ms), cy: y(height(rung)), r: 5 });
    mark.append(drawn("title", {}, `${label(rung)}: p90 ${digits(rung.p90_ms)} ms`));
    mark.addEventListener("click", () => setBudget(rung.p90_ms, "rung"));
    svg.append(mark);
  }
  return svg;
}

// -- the front ------------------------------------------------------------------------------------

const COSTS = DATA.axes.filter((axis) => axis.kind !== "top1").flatMap((axis) =>
  axis.kind === "latency" ? [{ axis, part: "p90" }, { axis, part: "value" }] : [{ axis, part: "value" }]);

function costName({ axis, part }) {
  const statistic = axis.kind !== "latency" ? "" : part === "p90" ? "p90 " : "median ";
  return `${statistic}${axis.label} (${unit(axis)})`;
}

function point(values, { axis, part }) {
  const [cost, top1] = [values[axis.name], values[TOP1.name]];
  if (!cost || !top1 || cost[part] === null) return null;
  return [shown(axis, cost[part]), 100 * top1.value];
}

function drawFront(budget) {
  const cost = COSTS[Number(byId("cost").value)];
  const marks = DATA.models.flatMap((model) => ["predicted", "measured"].map((source) => ({ model, source, at: point(model[source], cost) }))).filter((mark) => mark.at);
  if (!marks.length) { byId("front").replaceChildren(node("p", { class: "quiet" }, "no model has a value of this cost")); return; }
  // as wide as its place: a phone would scale a wide chart down until its text cannot be read
  const width = Math.min(960, Math.max(340, byId("front").clientWidth));
  const { svg, x, y, box } = chart({ width, height: Math.max(300, 0.46 * width), log: true, xs: marks.map((m) => m.at[0]), ys: marks.map((m) => m.at[1]),
    xName: costName(cost), yName: DATA.top1, title: `top-1 over ${costName(cost)}` });
  if (cost.part === "p90" && budget !== null && x(budget) > box.left && x(budget) < box.right) {
    svg.append(drawn("line", { class: "budget-line", x1: x(budget), x2: x(budget), y1: box.top, y2: box.bottom }));
    svg.append(drawn("text", { x: x(budget) + 5, y: box.top + 10 }, "budget"));
  }
  for (const model of DATA.models) {
    const [a, b] = [point(model.predicted, cost), point(model.measured, cost)];
    if (a && b) svg.append(drawn("line", { class: "error", x1: x(a[0]), y1: y(a[1]), x2: x(b[0]), y2: y(b[1]) }));
  }
  svg.append(stairs(marks.filter((m) => m.source === (DATA.verified ? "measured" : "predicted")).map((m) => m.at), x, y));
  for (const { model, source, at } of marks) {
    const best = source === "measured" || !model.measured[cost.axis.name];
    const states = [source, best && model.bundled && "bundled", best && picked.has(model.arch_id) && "picked"].filter(Boolean);
    const mark = drawn("circle", { class: `mark ${states.join(" ")}`, cx: x(at[0]), cy: y(at[1]), r: best ? 6 : 4.5, tabindex: 0, role: "img", "data-id": model.arch_id,
      "aria-label": `${label(model)}, ${source}: ${digits(at[0])} ${unit(cost.axis)}, top-1 ${digits(at[1])} %` });
    explain(mark, model);
    svg.append(mark);
    if (states.includes("picked") || (best && model.name)) svg.append(drawn("text", { class: "name", x: x(at[0]) + 9, y: y(at[1]) + 14 }, model.name || model.arch_id.slice(0, 6)));
  }
  byId("front").replaceChildren(svg);
}

function stairs(points, x, y) {
  let path = "";
  let best = -Infinity;
  for (const [cost, top1] of [...points].sort((a, b) => a[0] - b[0] || b[1] - a[1])) {
    if (top1 <= best) continue;
    path += path ? `H${x(cost)}V${y(top1)}` : `M${x(cost)} ${y(top1)}`;
    best = top1;
  }
  return drawn("path", { class: "stairs", d: path || "M0 0" });
}

function modelTable() {
  const columns = DATA.axes.filter((axis) => axis.kind !== "macs").flatMap((axis) => [
    [axis, "predicted", "value"], [axis, "measured", "value"],
    ...(axis.kind === "latency" ? [[axis, "measured", "p90"]] : axis.kind === "top1" ? [[axis, "measured", "interval"]] : [])]);
  const over = node("tr", {}, node("th", {}, "model"), node("th", {}, "MMACs"));
  for (const axis of DATA.axes.filter((one) => one.kind !== "macs")) {
    over.append(node("th", { class: "objective", colspan: axis.kind === "energy" ? 2 : 3 }, axis.kind === "top1" ? DATA.top1 : `${axis.label} (${unit(axis)})`));
  }
  const head = node("tr", {}, node("th", {}), node("th", {}), ...columns.map(([, source, part]) => node("th", {}, part === "p90" ? "p90" : part === "interval" ? "95 % interval" : source)));
  const rows = DATA.models.map((model) => node("tr", { "data-id": model.arch_id, class: model.bundled ? "bundled" : "", title: model.arch },
    node("td", { class: "id" }, label(model)), node("td", {}, digits(model.macs / 1e6)),
    ...columns.map(([axis, source, part]) => {
      if (part === "interval") return node("td", {}, interval(reported(model)).replace("95 % interval ", "") || "–");
      const figure = model[source][axis.name];
      const value = figure ? figure[part] : null;
      return node("td", {}, axis.kind === "top1" ? percent(value) : digits(value));
    })));
  byId("models").replaceChildren(node("thead", {}, over, head), node("tbody", {}, ...rows));
}

// -- surrogates, boards, settings -----------------------------------------------------------------

function scatter(one) {
  const axis = DATA.axes.find((a) => a.name === one.objective);
  const made = node("article", { class: "card", "data-objective": one.objective }, node("h3", {}, axis.label));
  const all = [...one.held_out, ...one.front].map((pair) => pair.map((v) => shown(axis, v)));
  if (all.length) {
    const { svg, x, y } = chart({ width: 360, height: 300, log: false, xs: all.flat(), ys: all.flat(), xName: `true (${unit(axis)})`, yName: `predicted (${unit(axis)})`, title: `${axis.label}: predicted over true` });
    const ends = [Math.min(...all.flat()), Math.max(...all.flat())];
    svg.append(drawn("line", { class: "diagonal", x1: x(ends[0]), y1: y(ends[0]), x2: x(ends[1]), y2: y(ends[1]) }));
    for (const [state, pairs] of [["held-out", one.held_out], ["measured", one.front]]) {
      for (const [truth, guess] of pairs) svg.append(drawn("circle", { class: `mark ${state}`, cx: x(shown(axis, truth)), cy: y(shown(axis, guess)), r: state === "measured" ? 4 : 2.5 }));
    }
    made.append(svg);
  }
  const rows = Object.entries(one.scores).map(([family, score]) => node("tr", { class: family === one.family ? "chosen" : "" },
    node("td", {}, family === one.family ? `${family} (chosen)` : family), node("td", {}, digits(score.tau)), node("td", {}, digits(score.rho)), node("td", {}, percent(score.mape))));
  made.append(node("table", {}, node("thead", {}, node("tr", {}, ...["cross-validated", "tau", "rho", "MAPE"].map((t) => node("th", {}, t)))), node("tbody", {}, ...rows)));
  const uniform = one.scores[one.family]?.tau_uniform ?? null;
  if (uniform !== null) made.append(node("p", { class: "quiet" }, `expected over uniformly drawn archs, which are more alike: tau ${digits(uniform)}`));
  if (one.front_tau !== null) made.append(node("p", { class: "quiet" }, `on the verified front: tau ${digits(one.front_tau)}`));
  return made;
}

const listed = (facts) => Object.entries(facts).flatMap(([name, value]) => [node("dt", {}, name), node("dd", {}, String(value))]);

function board(one) {
  const made = node("article", { class: "card", "data-device-class": one.device_class }, boardHeading(one.device_class),
    node("dl", {}, ...listed({ "device class": one.device_class, ...one.facts })));
  if (!one.runs.length) made.append(node("p", { class: "quiet" }, "no records of this board"));
  for (const run of one.runs) {
    const counts = Object.entries(run.counts).map(([validity, n]) => `${n} ${validity}`).join(", ");
    made.append(node("p", { class: "quiet" }, node("b", {}, run.name), `: ${counts}; ${run.what}`));
  }
  return made;
}

function growth(values) {
  const { svg, x, y } = chart({ width: 360, height: 170, log: false, whole: true, xs: values.map((_, i) => i), ys: values, xName: "infill rounds", yName: "hypervolume", title: "hypervolume by infill round" });
  svg.append(drawn("path", { class: "stairs", d: values.map((v, i) => `${i ? "L" : "M"}${x(i)} ${y(v)}`).join("") }));
  values.forEach((value, i) => svg.append(drawn("circle", { class: "mark", cx: x(i), cy: y(value), r: 4 }, drawn("title", {}, digits(value, 4)))));
  return svg;
}

// -- the page -------------------------------------------------------------------------------------

byId("title").textContent = DATA.title;
byId("summary").textContent = `${DATA.models.length} candidates of space ${DATA.space}, ${DATA.verified ? "measured" : "predicted, not yet measured"}; objectives: ${DATA.axes.map((axis) => axis.label).join("; ")}`;
byId("cost").append(...COSTS.map((cost, i) => node("option", { value: i }, costName(cost))));
const redraw = () => drawFront(DATA.ladders.length ? Number(byId("budget-ms").value) : null);
byId("cost").addEventListener("change", redraw);
window.addEventListener("resize", redraw);
modelTable();
byId("surrogates").append(...DATA.scatters.map(scatter));
byId("boards").append(...DATA.boards.map(board));
byId("settings").append(...listed({ ...DATA.settings, ...(DATA.constraints.length ? { constraints: DATA.constraints.join(", ") } : {}) }));
if (DATA.hypervolumes.length > 1) byId("growth").append(growth(DATA.hypervolumes)); else byId("growth").hidden = true;
byId("surrogates-section").hidden = !DATA.scatters.length;
byId("boards-section").hidden = !DATA.boards.length;
if (DATA.steps.length) {
  const commands = DATA.steps.map((step) => `ramnas ${step.argv.join(" ")}  # ${digits(step.seconds)} s`).join("\n");
  byId("steps").append(node("details", { open: "" }, node("summary", {}, "The commands that made it"), node("pre", {}, commands)));
}
if (DATA.ladders.length) {
  byId("budget").addEventListener("input", () => setBudget(ofSlider(Number(byId("budget").value)), "slider"));
  byId("budget-ms").addEventListener("input", () => setBudget(parseFloat(byId("budget-ms").value), "number"));
  setBudget(ofSlider(500), "slider");
} else {
  byId("budget-section").hidden = true;
  drawFront(null);
}
