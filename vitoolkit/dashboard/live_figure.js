// Draws what live_figure.py sends: a status line, or three Bokeh charts with their legends.

// ---- BokehJS: once a page, out of the installed bokeh package -------------------------------------
const LOADED = (window.__vitoolkit_bokeh ??= {});

async function gunzip(view) {
  const stream = new Blob([view]).stream().pipeThrough(new DecompressionStream("gzip"));
  return await new Response(stream).text();
}

function evaluate(source) {
  const root = {};
  try {
    new Function(source).call(root); // BokehJS takes `this` for its root: a copy of our own
    return root.Bokeh;
  } catch (error) {
    if (!(error instanceof EvalError)) throw error;
    const script = document.createElement("script"); // a page that forbids eval
    script.textContent = source;
    document.head.appendChild(script);
    script.remove();
    return window.Bokeh;
  }
}

function bokeh(model) {
  const version = model.get("_version");
  if (window.Bokeh?.version === version) return Promise.resolve(window.Bokeh);
  return (LOADED[version] ??= (async () => {
    const id = model.get("_library").replace("IPY_MODEL_", "");
    const library = await model.widget_manager.get_model(id);
    return evaluate(await gunzip(library.get("_source")));
  })().catch((error) => { delete LOADED[version]; throw error; }));
}

// ---- small helpers --------------------------------------------------------------------------------
function tag(name, className = "", text = "") {
  const element = document.createElement(name);
  element.className = className;
  element.textContent = text;
  return element;
}

function short(value) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "–" : String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(2);
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return value.toPrecision(size < 1 ? 3 : 4).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}

const count = (value) => Math.round(value).toLocaleString("en");

function duration(seconds) {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

const ink = () =>
  getComputedStyle(document.body).getPropertyValue("--jp-content-font-color1").trim() || "#222";

function decode(header, view) {
  const bytes = view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
  const all = new Float32Array(bytes), frame = { end: header.end, number: header.number, active: header.active };
  let at = 0;
  for (const [name, shape] of header.arrays) {
    const width = shape[shape.length - 1];
    if (shape.length === 1) {
      frame[name] = all.subarray(at, (at += width));
    } else {
      frame[name] = Array.from({ length: shape[0] }, () => all.subarray(at, (at += width)));
    }
  }
  return frame;
}

// ---- the status line ------------------------------------------------------------------------------
const PHASES = {
  waiting: "waiting", compiling: "compiling", running: "running", paused: "paused",
  finished: "finished", stopped: "stopped", interrupted: "interrupted", failed: "failed",
};

function renderStatus({ model, el }) {
  const root = tag("div", "vitoolkit vitoolkit-status");
  root.setAttribute("role", "status");
  const phase = tag("span", "vitoolkit-phase"), dot = tag("i", "vitoolkit-dot"), word = tag("span");
  const bar = tag("div", "vitoolkit-bar"), fill = tag("div"), message = tag("span", "vitoolkit-message");
  const [steps, speed, left, loss, elbo] = ["21ch", "14ch", "10ch", "11ch", "12ch"].map((width) => {
    const cell = tag("span");
    cell.style.minWidth = width;
    return cell;
  });
  phase.append(dot, word);
  bar.append(fill);
  root.append(phase, steps, speed, left, loss, elbo, bar, message);
  el.append(root);

  let heard = performance.now();
  const number = (cell, name, value) => {
    cell.replaceChildren();
    if (value != null) cell.append(tag("span", "vitoolkit-soft", `${name} `), tag("b", "", short(value)));
  };
  const show = () => {
    const s = model.get("status"), since = (performance.now() - heard) / 1000;
    const compiling = s.phase === "compiling";
    word.textContent = compiling
      ? `compiling (${Math.floor((s.seconds ?? 0) + since)} s)` : PHASES[s.phase] ?? s.phase;
    root.classList.toggle("vitoolkit-busy", compiling || s.phase === "running");
    root.dataset.phase = s.phase;
    const known = s.n != null && s.n > 0;
    fill.style.width = known ? `${Math.min(100, (100 * (s.done ?? 0)) / s.n)}%` : "0";
    steps.textContent = s.done == null ? "" : known ? `step ${count(s.done)} of ${count(s.n)}` : `step ${count(s.done)}`;
    speed.textContent = s.rate ? `${s.rate < 100 ? short(s.rate) : count(s.rate)} steps/s` : "";
    left.textContent = s.phase === "running" && s.left != null ? `${duration(s.left)} left`
      : s.took != null ? `took ${duration(s.took)}` : "";
    number(loss, "loss", s.loss);
    number(elbo, "ELBO", s.elbo);
    message.textContent = s.message ?? "";
  };
  const changed = () => { heard = performance.now(); show(); };
  model.on("change:status", changed);
  const timer = setInterval(() => model.get("status").phase === "compiling" && show(), 250);
  show();
  return () => { clearInterval(timer); model.off("change:status", changed); root.remove(); };
}

// ---- legends --------------------------------------------------------------------------------------
function swatch(color, dash) {
  const ns = "http://www.w3.org/2000/svg", svg = document.createElementNS(ns, "svg");
  const line = document.createElementNS(ns, "line");
  for (const [key, value] of Object.entries({ width: 24, height: 10 })) svg.setAttribute(key, value);
  const style = { x1: 0, x2: 24, y1: 5, y2: 5, "stroke-width": 2.5, "stroke-dasharray": dash.join(" "),
    stroke: color === "ink" ? "currentColor" : color };
  for (const [key, value] of Object.entries(style)) line.setAttribute(key, value);
  svg.append(line);
  return svg;
}

function legend(head, lines, toggled) {
  const chips = tag("div", "vitoolkit-chips"), values = [];
  const off = new Set();
  lines.forEach(([name, color, dash, scale], i) => {
    const chip = tag("button", "vitoolkit-chip"), value = tag("span", "value");
    chip.type = "button";
    chip.title = `${name}: click to hide or show`;
    chip.setAttribute("aria-pressed", "true");
    const label = tag("span", "name", name);
    chip.append(swatch(color, dash), label, value);
    if (scale === "log") chip.title += " (right axis)";
    chip.onclick = () => {
      off.has(i) ? off.delete(i) : off.add(i);
      chip.setAttribute("aria-pressed", String(!off.has(i)));
      toggled();
    };
    chips.append(chip);
    values.push(value);
  });
  if (lines.length > 8) {
    const longest = Math.min(22, Math.max(...lines.map(([name]) => name.length)));
    head.classList.add("vitoolkit-many");
    chips.style.gridTemplateColumns = `repeat(auto-fill, minmax(${70 + 7 * (longest + 4)}px, 1fr))`;
  }
  head.append(chips);
  return { off, values };
}

// ---- ranges: follow the data without jitter ------------------------------------------------------
// A range grows as soon as the data leave it and shrinks only when they fill too little of it.
function span(columns, step, from, to) {
  let low = Infinity, high = -Infinity;
  for (const column of columns) {
    for (let i = 0; i < column.length; i++) {
      const value = column[i];
      if (step[i] >= from && step[i] <= to && Number.isFinite(value)) {
        if (value < low) low = value;
        if (value > high) high = value;
      }
    }
  }
  return low <= high ? [low, high] : null;
}

function settle(range, found, log) {
  if (!found) return;
  let [low, high] = log ? found.map((v) => Math.log10(Math.max(v, 1e-300))) : found;
  let [start, end] = log ? [range.start, range.end].map((v) => Math.log10(Math.max(v, 1e-300))) : [range.start, range.end];
  const size = Math.max(high - low, log ? 0.5 : Math.abs(high) * 0.02, 1e-9);
  const inside = low >= start && high <= end, used = size / (end - start);
  if (inside && used > 0.6) return;
  const pad = 0.12 * size, middle = (low + high) / 2;
  start = Math.min(low, middle - size / 2) - pad;
  end = Math.max(high, middle + size / 2) + pad;
  range.setv(log ? { start: 10 ** start, end: 10 ** end } : { start, end });
}

function right(end, last) { // the step axis grows at 1, 2, 5, 10, 20 ... only
  if (last >= end) return Math.max(end, last, 1);
  let edge = 50;
  for (const factor of [2, 2.5, 2].concat(...Array(20).fill([2, 2.5, 2]))) {
    if (edge >= last) break;
    edge *= factor;
  }
  return Math.min(edge, end);
}

// ---- the charts -----------------------------------------------------------------------------------
class Charts {
  constructor(model, el) {
    this.model = model;
    this.legend = model.get("_legend");
    this.root = tag("div", "vitoolkit vitoolkit-figure");
    this.root.dataset.empty = "true";
    const redraw = () => this.last && this.draw(this.last);
    this.divs = ["Loss", "KL by variable, nats", "Controls"].map((title, i) => {
      const head = tag("div", "vitoolkit-head"), div = tag("div", "vitoolkit-chart");
      head.append(tag("h4", "", title));
      div.title = "drag to zoom, double-click to follow the fit again";
      this.root.append(head, div);
      if (i === 0) {
        const chips = tag("div", "vitoolkit-chips");
        for (const [name, opacity] of [["every step", 0.4], ["running mean", 1]]) {
          const chip = tag("span", "vitoolkit-chip"), line = swatch("ink", []);
          line.style.opacity = opacity;
          chip.append(line, tag("span", "", name));
          chip.style.cursor = "default";
          chips.append(chip);
        }
        const follow = tag("button", "vitoolkit-follow", "follow the fit again");
        follow.onclick = () => this.release();
        head.append(chips, follow);
      }
      if (i === 1) this.kl = legend(head, this.legend.kl, redraw);
      if (i === 2) this.control = legend(head, this.legend.control, redraw);
      if (i === 1) head.append((this.active = tag("span", "vitoolkit-soft")));
      if (i === 1 && this.legend.hidden) head.append(tag("span", "vitoolkit-soft", `and ${this.legend.hidden} more in the trace`));
      const name = ["loss", "kl", "control"][i], note = this.legend.notes[name];
      div.hidden = !this.legend.shown.includes(name);
      head.hidden = div.hidden && !note;
      if (note) head.replaceChildren(head.firstChild, tag("span", "vitoolkit-soft", note));
      return div;
    });
    this.root.__vitoolkit = this; // for those who look at the page from outside, such as tests
    el.append(this.root);
  }

  async attach(B) {
    while (!this.root.isConnected) await new Promise(requestAnimationFrame);
    this.doc = B.require("document").Document.from_json(JSON.parse(this.model.get("_document")));
    this.views = await B.embed.add_document_standalone(this.doc, this.divs[0], this.divs);
    this.sources = {};
    for (const name of ["band", "raw", "mean", "kl", "control", "control_log", "loss_marks", "kl_marks", "control_marks"]) {
      this.sources[name] = this.doc.get_model_by_name(`${name}_data`);
    }
    this.ranges = Object.fromEntries(["steps", "loss_range", "kl_range", "control_range", "control_log_range"]
      .map((name) => [name, this.doc.get_model_by_name(name)]));
    const zoomed = () => { if (!this.ours) this.hold(); };
    for (const range of Object.values(this.ranges)) {
      range?.properties.start.change.connect(zoomed);
      range?.properties.end.change.connect(zoomed);
    }
    for (const div of this.divs) div.addEventListener("dblclick", () => this.release());
    this.theme();
  }

  hold() { this.held = true; this.root.classList.add("vitoolkit-zoomed"); }

  release() {
    this.held = false;
    this.root.classList.remove("vitoolkit-zoomed");
    this.fresh = true;
    if (this.last) this.draw(this.last);
  }

  theme() {
    const css = getComputedStyle(document.body), get = (name, or) => css.getPropertyValue(name).trim() || or;
    const fg = ink(), soft = get("--jp-content-font-color2", "#666"), line = get("--jp-border-color2", "#ddd");
    for (const model of this.doc._all_models.values()) {
      const type = model.type;
      if (type === "Figure") model.setv({ outline_line_color: line });
      else if (/Axis$/.test(type)) model.setv({ axis_label_text_color: soft, major_label_text_color: soft, axis_line_color: soft, major_tick_line_color: soft });
      else if (/Grid$/.test(type)) model.setv({ grid_line_color: line, grid_line_alpha: 0.6 });
      else if (type === "GlyphRenderer" && model.name === "band") model.glyph.setv({ fill_color: fg });
      else if (type === "GlyphRenderer" && ["raw", "mean_line", "marks"].includes(model.name)) model.glyph.setv({ line_color: fg });
    }
    if (this.last) this.draw(this.last);
  }

  lines(name, legend, hidden, rows, step, keep) {
    const source = this.sources[name];
    if (!source) return;
    const chosen = legend.map((_, i) => i).filter(keep), fg = ink();
    source.data = {
      xs: chosen.map(() => step),
      ys: chosen.map((i) => rows[i]),
      name: chosen.map((i) => legend[i][0]),
      color: chosen.map((i) => (legend[i][1] === "ink" ? fg : legend[i][1])),
      dash: chosen.map((i) => legend[i][2]),
      alpha: chosen.map((i) => (hidden.has(i) ? 0 : 0.9)),
    };
  }

  draw(frame) {
    this.last = frame;
    const { step, low, high, mean, kl, control } = frame, n = step.length;
    this.root.dataset.empty = String(n === 0);
    this.active.textContent = frame.active ? `active units: ${frame.active}` : "";
    const x = new Float32Array(2 * n), y = new Float32Array(2 * n);
    for (let i = 0; i < n; i++) { // up and down in turn, so that the band is one line
      x[2 * i] = x[2 * i + 1] = step[i];
      y[2 * i + (i & 1)] = low[i];
      y[2 * i + 1 - (i & 1)] = high[i];
    }
    this.sources.raw.data = { x, y };
    this.sources.band.data = { x: step, low, high };
    this.sources.mean.data = { x: step, y: mean };
    const mixed = Boolean(this.sources.control_log), log = (i) => this.legend.control[i][3] === "log";
    this.lines("kl", this.legend.kl, this.kl.off, kl, step, () => true);
    this.lines("control", this.legend.control, this.control.off, control, step, (_, i) => !mixed || !log(i));
    this.lines("control_log", this.legend.control, this.control.off, control, step, (_, i) => log(i));
    for (const name of ["loss_marks", "kl_marks", "control_marks"]) this.sources[name].data = { x: frame.marks };
    if (n) {
      this.kl.values.forEach((cell, i) => (cell.textContent = short(kl[i][n - 1])));
      this.control.values.forEach((cell, i) => (cell.textContent = short(control[i][n - 1])));
    }
    if (!this.held && n) this.follow(frame);
  }

  follow({ step, low, high, mean, kl, control, end }) {
    this.ours = true;
    const last = step[step.length - 1], edge = right(end, last), { ranges } = this;
    if (this.fresh || ranges.steps.end !== edge || ranges.steps.start !== Math.min(step[0], 0)) {
      ranges.steps.setv({ start: Math.min(step[0], 0), end: edge });
    }
    if (this.fresh) for (const range of Object.values(ranges)) if (range && range !== ranges.steps) range.setv({ start: 0.1, end: 1e30 });
    this.fresh = false;
    // The fall from the starting point would flatten all that follows: the y axes fit the last four fifths.
    const from = last - 0.8 * (last - step[0]);
    settle(ranges.loss_range, this.robust(low, high, mean, step, from, last));
    const seen = kl.filter((_, i) => !this.kl.off.has(i)), positive = span(seen, step, from, last);
    settle(ranges.kl_range, positive && [Math.min(0, positive[0]), positive[1]]);
    const shown = (which) => control.filter((_, i) => !this.control.off.has(i) && which(i));
    const log = (i) => this.legend.control[i][3] === "log", mixed = Boolean(ranges.control_log_range);
    const all = !mixed && this.legend.control.length > 0 && this.legend.control.every((line) => line[3] === "log");
    const linear = span(shown((i) => !mixed || !log(i)), step, 0, last);
    settle(ranges.control_range, linear && (all ? linear : [Math.min(0, linear[0]), linear[1]]), all);
    if (mixed) settle(ranges.control_log_range, span(shown(log), step, 0, last), true);
    this.ours = false;
  }

  robust(low, high, mean, step, from, to) { // all of the mean, the band without its rare spikes
    const around = span([mean], step, from, to), all = span([low, high], step, from, to);
    if (!around || !all) return all;
    const values = [];
    for (let i = 0; i < step.length; i++) if (step[i] >= from) values.push(low[i], high[i]);
    const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
    const at = (q) => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
    return [Math.min(around[0], at(0.01)), Math.max(around[1], at(0.98))];
  }

  close() {
    this.views?.clear?.();
    this.doc?.clear();
    this.root.remove();
  }
}

// ---- the widget -----------------------------------------------------------------------------------
export default () => {
  let frame = null, due = false;
  const views = new Set();

  function redraw(model) { // the newest frame only, when the page has time, never in a hidden tab
    if (due || !views.size) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      const start = performance.now();
      for (const view of views) view.draw(frame);
      requestAnimationFrame(() => {
        const ms = performance.now() - start;
        if (frame.number) model.send({ kind: "drawn", number: frame.number, ms });
      });
    });
  }

  // Tells Python which control a person has in hand: a slider held down, a number being edited.
  function watchHands(model, el) {
    const controls = el.closest(".vitoolkit-panel")?.querySelector(".vitoolkit-controls");
    if (!controls) return () => {};
    let held = "";
    const tell = (name) => { if (name !== held) { held = name; model.send({ kind: "held", name }); } };
    const nameOf = (target) => {
      for (const row of controls.children) {
        if (row.contains(target)) return row.querySelector(".vitoolkit-name")?.textContent ?? "";
      }
      return "";
    };
    const number = (target) => target.matches?.("input[type=number]");
    const hands = {
      pointerdown: ({ target }) => { if (target.closest?.(".noUi-target")) tell(nameOf(target)); },
      pointerup: ({ target }) => { if (!number(target)) tell(""); },
      pointercancel: () => tell(""),
      focusin: ({ target }) => { if (number(target)) tell(nameOf(target)); },
      input: ({ target }) => { if (number(target)) tell(nameOf(target)); },
      change: ({ target }) => { if (number(target)) tell(""); },
      focusout: ({ target }) => { if (number(target)) tell(""); },
    };
    for (const [name, f] of Object.entries(hands)) document.addEventListener(name, f, true);
    return () => { for (const [name, f] of Object.entries(hands)) document.removeEventListener(name, f, true); };
  }

  return {
    initialize({ model }) {
      if (model.get("_kind") !== "figure") return;
      const header = model.get("_header"), arrays = model.get("_arrays");
      if (header && arrays?.byteLength) frame = decode(header, arrays);
      model.on("msg:custom", (content, buffers) => {
        if (content?.kind !== "frame") return;
        frame = decode(content.header, buffers[0]);
        redraw(model);
      });
    },

    async render({ model, el }) {
      el.style.width = "100%";
      if (model.get("_kind") === "status") return renderStatus({ model, el });
      const charts = new Charts(model, el);
      await charts.attach(await bokeh(model));
      views.add(charts);
      if (frame) redraw(model);
      const letGo = watchHands(model, el);
      const observer = new MutationObserver(() => setTimeout(() => charts.theme(), 50));
      observer.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "class"] });
      return () => { observer.disconnect(); letGo(); views.delete(charts); charts.close(); };
    },
  };
};
