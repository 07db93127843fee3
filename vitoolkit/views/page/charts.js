// The charts: loss, ELBO, KL of each variable, controls, rate against distortion, gradient.

const TITLES = {
  loss: "Loss", elbo: "ELBO at β = 1", kl: "KL by variable, nats", list: "KL now", control: "Controls",
  plane: "Rate and distortion, nats", gradient: "Gradient",
};
const GRADIENT = { gradient_norm: ["norm", "ink", []], gradient_snr: ["signal / noise (right axis)", "ink", [7, 3]] };
const SCALES = ["linear", "log", "symlog"];
const SCALE_TITLES = [
  "linear scale", "logarithm of numbers of one sign, also of negative ones; with both signs, symlog",
  "linear near zero, logarithmic beyond: for numbers of both signs",
];

class Charts extends Sheet {
  constructor({ legend }, el, send = () => {}) {
    super(el, send);
    this.legend = legend;
    this.wish = "linear";
    this.scale = { loss: LINEAR, elbo: LINEAR };
    const redraw = (...names) => () => this.last && this.draw(this.last, names);
    const { shown, notes } = legend;
    for (const name of ["loss", "elbo", "kl", "list", "control", "plane", "gradient"]) {
      const section = this.section(name, TITLES[name], name === "list" ? "vitoolkit-bars" : undefined);
      section.body.hidden = !shown.includes(name === "list" ? "kl" : name);
      section.hidden = section.body.hidden && !(name in notes);
      if (name in notes) section.head.append(tag("span", "vitoolkit-soft", notes[name]));
      if (!section.body.hidden) this.sight.observe(section.body);
    }
    const { loss, kl, list, control, plane, gradient } = this.sections;
    if (!loss.body.hidden) {
      loss.head.append(choices(SCALES, SCALE_TITLES, (name) => {
        this.wish = name;
        this.held ? this.release() : redraw("loss", "elbo")();
      }));
    }
    this.list = new VariableList(legend.kl, {
      toggled: redraw("kl", "list"), pick: (names) => send({ kind: "lines", names }),
    });
    list.head.append(this.list.total, (this.active = tag("span", "vitoolkit-soft")), this.list.reset);
    list.body.append(this.list.search, this.list.box);
    list.body.style.setProperty("--rows", `${ROW * legend.kl.length + 6}px`);
    if (!kl.body.hidden && legend.kl.length > 24) kl.head.append(tag("span", "vitoolkit-soft", "the largest, and those you click in the list"));
    this.control = chips(control.head, legend.control, redraw("control"));
    for (const [name, color, dash] of Object.values(GRADIENT)) {
      const chip = tag("span", "vitoolkit-chip");
      chip.append(swatch(color, dash), tag("span", "name", name));
      gradient.head.append(chip);
    }
    plane.head.append((this.point = tag("span", "vitoolkit-soft")));
    this.wide();
  }

  wide() { // a chart without a neighbor has the width for itself
    const pairs = [["loss", "elbo"], ["control", "plane"]];
    for (const name of ["loss", "kl", "control"]) this.sections[name].classList.add("vitoolkit-first");
    for (const pair of pairs) {
      const there = pair.filter((name) => !this.sections[name].hidden);
      for (const name of pair) this.sections[name].classList.toggle("vitoolkit-alone", there.length === 1);
    }
    this.sections.kl.classList.toggle("vitoolkit-alone", this.sections.kl.body.hidden);
    this.sections.gradient.classList.add("vitoolkit-alone");
  }

  attach(B, json) { // the document has the charts that are shown, in this order
    return super.attach(B, json, ["loss", "elbo", "kl", "control", "plane", "gradient"].filter((name) => this.legend.shown.includes(name)));
  }

  steps(frame) {
    this.along(frame.step[0], frame.step[frame.step.length - 1], frame.edge);
  }

  marks(name, { marks }) {
    this.sources[`${name}_marks`].data = { x: marks.map(([step]) => step), text: marks.map(([, text]) => text) };
  }

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

  draw_loss(frame) {
    this.band("loss", frame.step, frame.low, frame.high, frame.mean);
    this.marks("loss", frame);
  }

  draw_elbo(frame) {
    this.band("elbo", frame.step, frame.elbo_low, frame.elbo_high, frame.elbo);
    this.marks("elbo", frame);
  }

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

  draw_kl(frame) {
    const { step, kl, lines } = frame;
    this.marks("kl", frame);
    const shown = lines.map((i) => this.legend.kl[i]), off = new Set([...this.list.off].map((i) => this.legend.kl[i]));
    this.lines("kl", shown, kl, step, () => true, off);
    const found = span(kl.filter((_, k) => !off.has(shown[k])), step, this.from, Infinity);
    this.settle("kl", found && [Math.min(0, found[0]), found[1]]);
  }

  draw_list({ now, lines, active }) {
    this.active.textContent = active ? `active units: ${active}` : "";
    this.list.show(now, lines);
  }

  draw_control(frame, n) {
    const { step, control, ahead, future, planned, edge } = frame;
    this.marks("control", frame);
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

  draw_gradient(frame) {
    const { step, gradient, measured } = frame;
    this.marks("gradient", frame);
    for (const [name, column] of [["gradient", "gradient_norm"], ["gradient_snr", "gradient_snr"]]) {
      this.lines(name, measured.map((column) => GRADIENT[column]), gradient, step, (k) => measured[k] === column);
      const positive = gradient.filter((_, k) => measured[k] === column).map((row) => row.map((v) => (v > 0 ? v : NaN)));
      this.settle(name, span(positive, step, this.from, Infinity), true);
    }
  }
}
