// The charts: loss, ELBO, KL of each variable, controls, rate against distortion, gradient.

function decode(header, view) {
  const bytes = view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
  const all = new Float32Array(bytes), frame = { ...header };
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

const TITLES = {
  loss: "Loss", elbo: "ELBO at β = 1", kl: "KL by variable, nats", control: "Controls",
  plane: "Rate and distortion, nats", gradient: "Gradient",
};
const ON_STEPS = ["loss", "elbo", "kl", "control", "gradient"];
const SCALES = ["linear", "log", "symlog"];
const SCALE_TITLES = [
  "linear scale", "logarithm of numbers of one sign, also of negative ones; with both signs, symlog",
  "linear near zero, logarithmic beyond: for numbers of both signs",
];

class Charts {
  constructor({ document: json, legend }, el, send = () => {}) {
    this.json = json;
    this.legend = legend;
    this.root = tag("div", "vitoolkit vitoolkit-figure");
    this.root.dataset.empty = "true";
    this.grid = tag("div", "vitoolkit-grid");
    this.root.append(this.grid);
    this.sections = {};
    this.stale = new Set();
    this.hidden = new Set();
    this.wish = "linear";
    this.scale = { loss: LINEAR, elbo: LINEAR };
    const redraw = (...names) => () => this.last && this.draw(this.last, names);
    const { shown, notes } = legend;
    const sight = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const name = target.dataset.chart;
        isIntersecting ? this.hidden.delete(name) : this.hidden.add(name);
        if (isIntersecting && this.stale.has(name) && this.last) this.draw(this.last, [name]);
      }
      const seen = this.seen;
      if (seen && !this.was) send({ kind: "here" });
      this.was = seen;
    });
    this.sight = sight;
    for (const name of ["loss", "elbo", "kl", "list", "control", "plane", "gradient"]) {
      const section = tag("section", "vitoolkit-section"), head = tag("div", "vitoolkit-head");
      const body = tag("div", name === "list" ? "vitoolkit-bars" : "vitoolkit-chart"), title = tag("h4", "", TITLES[name]);
      section.dataset.chart = body.dataset.chart = name;
      head.append(title);
      section.append(head, body);
      this.grid.append(section);
      this.sections[name] = section;
      const part = name === "list" ? "kl" : name;
      body.hidden = !shown.includes(part);
      section.hidden = body.hidden && !(name in notes);
      section.head = head;
      section.body = body;
      if (name in notes) head.append(tag("span", "vitoolkit-soft", notes[name]));
      if (body.hidden) continue;
      if (name !== "list") body.title = "drag to zoom, double-click to follow the fit again";
      sight.observe(body);
    }
    const { loss, kl, list, control, gradient } = this.sections;
    gradient.hidden = gradient.body.hidden = true; // until there are numbers
    this.follow_ = tag("button", "vitoolkit-follow", "follow the fit again");
    this.follow_.onclick = () => this.release();
    loss.body.append(this.follow_);
    this.root.addEventListener("pointerdown", ({ target }) => { this.touched = target.closest?.(".vitoolkit-chart") ?? this.touched; }, true);
    if (!loss.body.hidden) {
      loss.head.append(choices(SCALES, SCALE_TITLES, (name) => {
        this.wish = name;
        this.fresh = true;
        redraw("loss", "elbo")();
      }));
    }
    this.list = new VariableList(legend.kl, {
      toggled: redraw("kl", "list"), pick: (names) => send({ kind: "lines", names }),
    });
    list.head.firstChild.textContent = "KL now";
    list.head.append(this.list.total, (this.active = tag("span", "vitoolkit-soft")), this.list.reset);
    list.body.append(this.list.search, this.list.box);
    if (!kl.body.hidden && legend.kl.length > 24) kl.head.append(tag("span", "vitoolkit-soft", "the largest, and those you click in the list"));
    this.control = chips(control.head, legend.control, redraw("control"));
    this.plan = tag("span", "vitoolkit-soft");
    this.point = tag("span", "vitoolkit-soft");
    this.sections.plane.head.append(this.point);
    this.wide();
    this.root.__vitoolkit = this; // for those who look at the page from outside, such as tests
    el.append(this.root);
  }

  wide() { // a chart without a neighbor has the width for itself
    const pairs = [["loss", "elbo"], ["control", "plane"]];
    for (const pair of pairs) {
      const there = pair.filter((name) => !this.sections[name].hidden);
      for (const name of pair) this.sections[name].classList.toggle("vitoolkit-alone", there.length === 1);
    }
    this.sections.kl.classList.toggle("vitoolkit-alone", this.sections.kl.body.hidden);
    this.sections.gradient.classList.add("vitoolkit-alone");
  }

  async attach(B) {
    while (!this.root.isConnected) await new Promise(requestAnimationFrame);
    this.doc = B.require("document").Document.from_json(JSON.parse(this.json));
    const roots = ["loss", "elbo", "kl", "control", "plane", "gradient"];
    const divs = roots.map((name) => this.sections[name].body);
    this.views = await B.embed.add_document_standalone(this.doc, divs[0], divs);
    const get = (name) => this.doc.get_model_by_name(name);
    this.sources = {};
    for (const model of this.doc._all_models.values()) {
      if (model.type === "ColumnDataSource") this.sources[model.name.replace(/_data$/, "")] = model;
    }
    this.sources.mean = this.sources.loss;
    this.ranges = {};
    for (const name of ["loss", "elbo", "kl", "control", "control_log", "plane", "rate", "gradient", "gradient_snr"]) {
      this.ranges[name] = get(`${name}_range`);
    }
    this.ranges.steps = get("steps");
    this.axes = { loss: get("loss_axis"), elbo: get("elbo_axis"), plane: get("plane_axis"), rate: get("rate_axis") };
    const zoomed = () => { if (!this.ours) { this.hold(); this.ticks(); } };
    for (const range of Object.values(this.ranges)) {
      range?.properties.start.change.connect(zoomed);
      range?.properties.end.change.connect(zoomed);
    }
    for (const div of divs) div.addEventListener("dblclick", () => this.release());
    this.theme();
  }

  get seen() { return this.hidden.size < Object.values(this.sections).filter((section) => !section.body.hidden).length; }

  hold() {
    this.held = true;
    (this.touched ?? this.sections.loss.body).append(this.follow_);
    this.root.classList.add("vitoolkit-zoomed");
  }

  release() {
    this.held = false;
    this.root.classList.remove("vitoolkit-zoomed");
    this.fresh = true;
    if (this.last) this.draw(this.last);
  }

  theme() {
    const css = getComputedStyle(document.body), get = (name, or) => css.getPropertyValue(name).trim() || or;
    const fg = ink(), soft = get("--jp-content-font-color2", "#666"), line = get("--jp-border-color2", "#ddd");
    const paper = get("--jp-layout-color0", "#fff");
    for (const model of this.doc._all_models.values()) {
      const { type, name } = model;
      if (type === "Figure") model.setv({ outline_line_color: line });
      else if (/Axis$/.test(type)) model.setv({ axis_label_text_color: soft, major_label_text_color: soft, axis_line_color: soft, major_tick_line_color: soft });
      else if (/Grid$/.test(type)) model.setv({ grid_line_color: line, grid_line_alpha: 0.6 });
      else if (type !== "GlyphRenderer") continue;
      else if (name === "band") model.glyph.setv({ fill_color: fg });
      else if (name === "present") model.glyph.setv({ fill_color: fg, line_color: paper });
      else if (name === "iso") model.glyph.setv({ line_color: soft });
      else if (["raw", "mean_line", "marks", "path", "stops"].includes(name)) model.glyph.setv({ line_color: fg });
    }
    if (this.last) this.draw(this.last);
  }

  draw(frame, names = Object.keys(this.sections)) {
    this.last = frame;
    if (!this.sources) return;
    const n = frame.step.length;
    this.root.dataset.empty = String(n === 0);
    if (frame.measured.length && this.sections.gradient.hidden) this.show_gradient(frame);
    this.ours = true;
    if (n && !this.held) this.steps(frame);
    for (const name of names) {
      if (this.hidden.has(name) || this.sections[name].hidden) { this.stale.add(name); continue; }
      this.stale.delete(name);
      if (ON_STEPS.includes(name)) {
        this.sources[`${name}_marks`].data = { x: frame.marks.map(([step]) => step), text: frame.marks.map(([, text]) => text) };
      }
      this[`draw_${name}`](frame, n);
    }
    this.fresh = false;
    this.ours = false;
    this.ticks();
  }

  steps({ step, edge }) {
    const { steps } = this.ranges, start = Math.min(step[0], 0), last = step[step.length - 1];
    if (this.fresh || steps.end !== edge || steps.start !== start) steps.setv({ start, end: edge });
    // The fall from the starting point would flatten all that follows: the y axes fit the last four fifths.
    this.from = last - 0.8 * (last - step[0]);
    if (this.fresh) for (const [name, range] of Object.entries(this.ranges)) if (range && name !== "steps") range.setv({ start: 0.1, end: 1e30 });
  }

  ticks() {
    const scales = { ...this.scale, plane: LINEAR, rate: LINEAR };
    for (const [name, axis] of Object.entries(this.axes)) {
      const { start, end } = this.ranges[name], key = `${start} ${end} ${scales[name].name}`;
      if (axis.__key === key || end > 1e29) continue;
      axis.__key = key;
      const [places, words] = ticksOf(scales[name], start, end);
      axis.major_label_overrides = new Map(places.map((place, i) => [place, words[i]]));
      axis.ticker.ticks = places;
    }
  }

  settle(name, found, log) { if (!this.held && found) settle(this.ranges[name], found, log); }

  band(name, step, low, high, mean) {
    const n = step.length, before = this.scale[name];
    const scale = (this.scale[name] = chosenScale(this.wish, low, high, mean, before)), to = scale.to;
    if (scale.name !== before.name && !this.held) this.ranges[name].setv({ start: 0.1, end: 1e30 });
    const map = (values) => (scale === LINEAR ? values : Float32Array.from(values, to));
    const bottom = map(low), top = map(high), middle = map(mean);
    const x = new Float32Array(2 * n), y = new Float32Array(2 * n);
    for (let i = 0; i < n; i++) { // up and down in turn, so that the band is one line
      x[2 * i] = x[2 * i + 1] = step[i];
      y[2 * i + (i & 1)] = bottom[i];
      y[2 * i + 1 - (i & 1)] = top[i];
    }
    this.sources[`${name}_raw`].data = { x, y };
    this.sources[`${name}_band`].data = { x: step, low: bottom, high: top };
    this.sources[name].data = { x: step, y: middle, value: mean, smallest: low, largest: high };
    const from = scale === LINEAR ? this.from : -Infinity, title = this.sections[name].head.firstChild;
    this.settle(name, robust(bottom, top, middle, step, from, Infinity));
    title.textContent = TITLES[name] + (scale === LINEAR ? "" : `, ${scale.name} scale`);
  }

  draw_loss({ step, low, high, mean }) { this.band("loss", step, low, high, mean); }

  draw_elbo({ step, elbo_low, elbo_high, elbo }) { this.band("elbo", step, elbo_low, elbo_high, elbo); }

  lines(name, lines, rows, step, keep, off = new Set(), look = {}) {
    const source = this.sources[name];
    if (!source) return;
    const chosen = lines.map((_, k) => k).filter(keep), fg = ink(), line = (k) => lines[k];
    source.data = {
      xs: chosen.map(() => step),
      ys: chosen.map((k) => rows[k]),
      name: chosen.map((k) => line(k)[0]),
      color: chosen.map((k) => (line(k)[1] === "ink" ? fg : line(k)[1])),
      dash: chosen.map((k) => look.dash ?? line(k)[2]),
      alpha: chosen.map((k) => (off.has(line(k)) ? 0 : look.alpha ?? 0.9)),
      width: chosen.map(() => look.width ?? 2),
    };
  }

  draw_kl({ step, kl, lines }) {
    const shown = lines.map((i) => this.legend.kl[i]), off = new Set([...this.list.off].map((i) => this.legend.kl[i]));
    this.lines("kl", shown, kl, step, () => true, off);
    const found = span(kl.filter((_, k) => !off.has(shown[k])), step, this.from, Infinity);
    this.settle("kl", found && [Math.min(0, found[0]), found[1]]);
  }

  draw_list({ now, lines, active }) {
    this.active.textContent = active ? `active units: ${active}` : "";
    this.list.show(now, lines);
  }

  draw_control({ step, control, ahead, future, planned, edge }, n) {
    const all = this.legend.control, { off, values } = this.control, last = step[n - 1];
    const away = new Set([...off].map((i) => all[i])), mixed = Boolean(this.sources.control_log);
    const log = (line) => line[3] === "log", only = !mixed && all.length > 0 && all.every(log);
    // From the present value on, and no further than the axis.
    const next = ahead.findIndex((at) => at > last), tail = next < 0 ? new Float32Array(0) : ahead.subarray(next);
    const steps = Float32Array.of(last, ...tail), plans = planned.map((i) => all[i]);
    const rows = planned.map((i, k) => Float32Array.of(control[i][n - 1], ...(next < 0 ? [] : future[k].subarray(next))));
    const look = { dash: [2, 3], alpha: 0.55, width: 1.5 };
    for (const [suffix, keep] of [["", (line) => !mixed || !log(line)], ["_log", log]]) {
      if (suffix && !mixed) continue;
      this.lines(`control${suffix}`, all, control, step, (k) => keep(all[k]), away);
      this.lines(`control${suffix}_ahead`, plans, rows, steps, (k) => keep(plans[k]), away, look);
      const seen = (lines, row) => row.filter((_, k) => keep(lines[k]) && !away.has(lines[k]));
      const found = [span(seen(all, control), step, 0, Infinity), span(seen(plans, rows), steps, 0, edge)].filter(Boolean);
      if (!found.length) continue;
      const ends = [Math.min(...found.map(([low]) => low)), Math.max(...found.map(([, high]) => high))];
      const logarithmic = Boolean(suffix) || only;
      this.settle(`control${suffix}`, logarithmic ? ends : [Math.min(0, ends[0]), ends[1]], logarithmic);
    }
    if (n) values.forEach((cell, i) => (cell.textContent = short(control[i][n - 1])));
  }

  draw_plane({ step, rate, distortion, elbo, marks }, n) {
    let last = n - 1;
    while (last >= 0 && !(Number.isFinite(rate[last]) && Number.isFinite(distortion[last]))) last--;
    if (last < 0) return;
    this.sources.plane.data = { x: rate, y: distortion, step, elbo };
    this.sources.plane_now.data = { x: [rate[last]], y: [distortion[last]] };
    const stops = marks.map(([at, text]) => [step.findIndex((s) => s >= at), text]).filter(([i]) => i >= 0);
    this.sources.plane_marks.data = {
      x: stops.map(([i]) => rate[i]), y: stops.map(([i]) => distortion[i]), step: stops.map(([i]) => step[i]), text: stops.map(([, text]) => text),
    };
    this.settle("rate", span([rate], step, this.from, Infinity));
    this.settle("plane", span([distortion], step, this.from, Infinity));
    const reach = 100 * (this.ranges.rate.end - this.ranges.rate.start); // where the ELBO is that of now
    this.sources.iso.data = { x: [rate[last] - reach, rate[last] + reach], y: [distortion[last] + reach, distortion[last] - reach] };
    this.point.textContent = `ELBO ${short(elbo[last])} on the dotted line, better below it`;
  }

  show_gradient({ measured }) {
    const { gradient } = this.sections;
    gradient.hidden = gradient.body.hidden = false;
    this.sight.observe(gradient.body);
    const names = { gradient_norm: ["norm", "ink", []], gradient_snr: ["signal / noise (right axis)", "ink", [7, 3]] };
    this.gradient = measured.map((name) => names[name]);
    for (const [name, color, dash] of this.gradient) {
      const chip = tag("span", "vitoolkit-chip");
      chip.append(swatch(color, dash), tag("span", "name", name));
      gradient.head.append(chip);
    }
  }

  draw_gradient({ step, gradient, measured }) {
    for (const [name, column] of [["gradient", "gradient_norm"], ["gradient_snr", "gradient_snr"]]) {
      this.lines(name, this.gradient, gradient, step, (k) => measured[k] === column);
      const positive = gradient.filter((_, k) => measured[k] === column).map((row) => row.map((v) => (v > 0 ? v : NaN)));
      this.settle(name, span(positive, step, this.from, Infinity), true);
    }
  }

  close() {
    this.sight.disconnect();
    this.views?.clear?.();
    this.doc?.clear();
    this.root.remove();
  }
}
