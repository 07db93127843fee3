// The charts of a fit. Which there are and what they read comes from Python; here is how each kind is drawn.

const SCALES = ["linear", "log", "symlog"];
const SCALE_TITLES = [
  "linear scale", "logarithm of numbers of one sign, also of negative ones; with both signs, symlog",
  "linear near zero, logarithmic beyond: for numbers of both signs",
];

class Charts extends Sheet {
  constructor({ legend }, el, send = () => {}) {
    super(legend, el, send);
    this.legend = legend;
    this.chart = Object.fromEntries(this.charts.map((chart) => [chart.name, chart]));
    this.wish = "linear";
    const redraw = (...names) => () => this.last && this.draw(this.last, names);
    const { shown, notes } = legend;
    for (const { name, title, kind } of this.charts) {
      const section = this.section(name, title, kind === "list" ? "vitoolkit-bars" : undefined);
      section.body.hidden = !shown.includes(name);
      section.hidden = section.body.hidden && !(name in notes);
      if (name in notes) section.head.append(tag("span", "vitoolkit-soft", notes[name]));
      if (!section.body.hidden) this.sight.observe(section.body);
    }
    const { kl, list, control, plane } = this.sections;
    const bands = this.charts.filter(({ name, kind }) => kind === "band" && shown.includes(name)).map(({ name }) => name);
    this.scale = Object.fromEntries(bands.map((name) => [name, LINEAR]));
    if (shown.includes("loss")) {
      this.sections.loss.head.append(choices(SCALES, SCALE_TITLES, (name) => {
        this.wish = name;
        this.held ? this.release() : redraw(...bands)();
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
    for (const { name, lines } of this.charts) {
      for (const { look: [label, color, dash] } of lines) {
        const chip = tag("span", "vitoolkit-chip");
        chip.append(swatch(color, dash), tag("span", "name", label));
        this.sections[name].head.append(chip);
      }
    }
    plane.head.append((this.point = tag("span", "vitoolkit-soft")));
    this.wide();
  }

  wide() { // a chart without a neighbor has the width for itself
    const hidden = (name) => this.sections[name].hidden;
    for (const { name, beside } of this.charts) {
      const neighbors = beside ? [beside] : this.charts.filter((other) => other.beside === name).map((other) => other.name);
      this.sections[name].classList.toggle("vitoolkit-first", !beside);
      this.sections[name].classList.toggle("vitoolkit-alone", neighbors.every(hidden));
    }
  }

  paint(name, frame, n) {
    const chart = this.chart[name];
    this[`draw_${chart.kind}`](frame, n, chart);
    if (this.sources[`${name}_marks`] && chart.kind !== "plane") this.marks(name, frame);
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
    const from = scale === LINEAR ? this.from : -Infinity, heading = this.sections[name].head.firstChild;
    this.settle(name, robust(bottom, top, middle, step, from, Infinity, this.fit));
    heading.textContent = this.chart[name].title + (scale === LINEAR ? "" : `, ${scale.name} scale`);
  }

  draw_band({ step, bands, low, high, mean }, n, { name, reads: [column] }) {
    const i = bands.indexOf(column);
    this.band(name, step, low[i], high[i], mean[i]);
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
    const shown = lines.map((i) => this.legend.kl[i]), off = new Set([...this.list.off].map((i) => this.legend.kl[i]));
    this.lines("kl", shown, kl, step, () => true, off);
    const found = span(kl.filter((_, k) => !off.has(shown[k])), step, this.from, Infinity);
    this.settle("kl", found && [Math.min(0, found[0]), found[1]]);
  }

  draw_list({ now, lines, active }) {
    this.active.textContent = active ? `active units: ${active}` : "";
    this.list.show(now, lines);
  }

  draw_controls(frame, n) {
    const { step, control, ahead, future, planned, edge } = frame;
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

  draw_plane({ step, rate, distortion, bands, mean, marks }, n) {
    const elbo = mean[bands.indexOf("elbo")];
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

  draw_lines({ step, measure, measures }, n, { name, lines, scale }) {
    const there = lines.filter(({ column }) => measures.includes(column)), log = scale === "log";
    const rows = there.map(({ column }) => measure[measures.indexOf(column)]);
    for (const [source, right] of [[name, false], [`${name}_right`, true]]) {
      const mine = (k) => there[k].right === right;
      this.lines(source, there.map(({ look }) => look), rows, step, mine);
      const drawn = rows.filter((_, k) => mine(k)).map((row) => (log ? row.map((v) => (v > 0 ? v : NaN)) : row));
      this.settle(source, span(drawn, step, this.from, Infinity), log);
    }
  }
}
