// The charts of a fit. Which there are and what they read comes from Python; here is how each kind is drawn.

const SCALES = ["linear", "log", "symlog"];
const SCALE_TITLES = [
  "linear scale", "logarithm of numbers of one sign, also of negative ones; with both signs, symlog",
  "linear near zero, logarithmic beyond: for numbers of both signs",
];

// What a mean is of: a share of the steps so far, or a number of them.
const MEANS = [[0.005, "0.5 % of the steps"], [0.01, "1 % of the steps"], [0.02, "2 % of the steps"], [0.05, "5 % of the steps"],
  [0.1, "10 % of the steps"], [100, "100 steps"], [1000, "1,000 steps"], [10_000, "10,000 steps"]];
const USUAL = 0.02, REMEMBERED = "vitoolkit-mean";
const GHOST = { dash: [6, 2], alpha: 0.45, width: 1.5 };

class Charts extends Sheet {
  constructor({ legend, ghost = null }, el, send = () => {}) {
    super(legend, el, send);
    this.legend = legend;
    this.ghost = ghost; // an earlier run
    this.chart = Object.fromEntries(this.charts.map((chart) => [chart.name, chart]));
    this.wish = "linear";
    this.unit = "steps";
    const redraw = (...names) => () => this.whole && this.draw(this.whole, names);
    const { shown, notes } = legend;
    for (const { name, title, kind } of this.charts) {
      const section = this.section(name, title, kind === "list" ? "vitoolkit-bars" : undefined);
      section.body.hidden = !shown.includes(name);
      section.hidden = section.body.hidden && !(name in notes);
      if (name in notes) section.head.append(tag("span", "vitoolkit-soft", notes[name]));
      if (section.body.hidden) continue;
      section.body.setAttribute("aria-label", `${title}; arrow keys read it point by point`);
      this.sight.observe(section.body);
    }
    const { kl, list, control, plane } = this.sections;
    const bands = this.charts.filter(({ name, kind }) => kind === "band" && shown.includes(name)).map(({ name }) => name);
    this.scale = Object.fromEntries(bands.map((name) => [name, LINEAR]));
    if (bands.length) {
      const { head } = this.sections[bands[0]];
      head.append(this.means(send), choices(["steps", "seconds"], ["over the steps", "over the seconds of the fit, pauses taken out"], (unit) => {
        this.unit = unit;
        this.release();
      }), choices(SCALES, SCALE_TITLES, (name) => {
        this.wish = name;
        this.held ? this.release() : redraw(...bands)();
      }));
      this.behind = this.sections[bands[bands.length - 1]].head;
      if (ghost) this.haunt(ghost);
    }
    this.list = new VariableList(legend.kl, {
      toggled: redraw("kl", "list"), pick: (names) => send({ kind: "lines", names }),
    });
    list.head.append(this.list.total, (this.active = tag("span", "vitoolkit-soft")), this.list.reset);
    this.list.put(list.body);
    if (legend.kl.length === 1) { // its line is all there is to see
      list.hidden = list.body.hidden = this.alone = true;
      kl.head.append(this.list.total, this.active);
    }
    if (legend.q) this.posterior = new PosteriorCharts(this, legend.q, send);
    if (!kl.body.hidden && legend.kl.length > legend.most) kl.head.append(tag("span", "vitoolkit-soft", "the largest, and those you click in the list"));
    this.control = chips(control.head, legend.control, redraw("control"));
    for (const { name, lines } of this.charts) {
      for (const { look: [label, color, dash] } of lines) {
        const chip = tag("span", "vitoolkit-chip");
        chip.append(swatch(color, dash), tag("span", "name", label));
        this.sections[name].head.append(chip);
      }
    }
    this.sections.predictive.head.append((this.sketched = tag("span", "vitoolkit-soft")));
    const time = tag("span", "vitoolkit-soft", "first ");
    time.append((this.times = tag("i", "vitoolkit-times")), " last step");
    plane.head.append((this.point = tag("span", "vitoolkit-soft")), time);
    for (const { name, title, kind } of this.charts) {
      if (kind !== "list" && !this.sections[name].body.hidden) this.sections[name].head.append(saver(this, name, title));
    }
    this.reading = new Reading(this);
    this.wide();
  }

  fix() { this.root.querySelector(".vitoolkit-mean")?.remove(); } // there is nobody who would compute other means

  means(send) {
    const label = tag("label", "vitoolkit-mean vitoolkit-soft", "mean of "), select = tag("select");
    for (const [rows, words] of MEANS) select.append(new Option(words, rows));
    const ask = () => send({ kind: "smooth", rows: Number(select.value) });
    select.value = remembered();
    if (!select.value) select.value = USUAL;
    select.title = "how many steps around each point its mean and its range are of";
    select.onchange = () => { remember(select.value); ask(); };
    if (Number(select.value) !== USUAL) ask();
    label.append(select);
    return label;
  }

  haunt(ghost) { // an earlier run, or steps that were left behind
    this.chip?.remove();
    this.ghost = ghost;
    if (this.behind) this.behind.append((this.chip = this.ghostly()));
    if (this.last) this.draw(this.last);
  }

  ghostly() { // which it is; a click hides it
    const chip = tag("button", "vitoolkit-chip");
    chip.type = "button";
    chip.title = "drawn softly, for comparison: click to hide or show";
    chip.setAttribute("aria-pressed", "true");
    chip.append(swatch("ink", GHOST.dash, 0.6), tag("span", "name", this.ghost.title));
    chip.onclick = () => {
      const off = chip.getAttribute("aria-pressed") === "true";
      chip.setAttribute("aria-pressed", String(!off));
      this.ghost.off = off;
      if (this.last) this.draw(this.last);
    };
    return chip;
  }

  wide() { // a chart without a neighbor has the width for itself
    const hidden = (name) => this.sections[name].hidden;
    for (const { name, beside } of this.charts) {
      const neighbors = beside ? [beside] : this.charts.filter((other) => other.beside === name).map((other) => other.name);
      this.sections[name].classList.toggle("vitoolkit-first", !beside);
      this.sections[name].classList.toggle("vitoolkit-alone", neighbors.every(hidden));
    }
  }

  draw(frame, names) {
    if (frame !== this.last) { this.whole = frame; frame = this.chosen(frame); }
    this.x = this.unit === "steps" ? frame.step : frame.seconds;
    super.draw(frame, names);
    this.reading.follow();
  }

  theme() {
    this.time = timeColors();
    this.times.style.background = `linear-gradient(to right, ${[0, 0.5, 1].map((share) => this.time(share))})`;
    super.theme();
  }

  paint(name, frame, n) {
    const chart = this.chart[name];
    this[`draw_${chart.kind}`](frame, n, chart);
    if (this.sources[`${name}_marks`] && chart.kind !== "plane") this.sources[`${name}_marks`].data = { x: frame.marks.map(([step]) => this.along_x(step)) };
  }

  steps({ step, edge }) {
    const { x } = this, last = x[x.length - 1], ended = edge <= step[step.length - 1];
    this.along(x[0], last, this.unit === "steps" ? edge : ended ? last : roundUp(last));
    for (const axis of this.axes.steps ?? []) {
      if (axis.axis_label) axis.axis_label = this.unit === "steps" ? "step" : "seconds, pauses taken out";
    }
  }

  along_x(at) { // where a step is on the axis; one to come, at the pace of late
    const { step, seconds } = this.last, n = step.length;
    if (this.unit === "steps" || n < 2) return at;
    let i = nearest(step, at);
    if (step[i] > at && i > 0) i--;
    const j = i + 1 < n ? i + 1 : (i = Math.floor(0.8 * (n - 1)), n - 1);
    const pace = (seconds[j] - seconds[i]) / (step[j] - step[i]);
    return at > step[n - 1] ? seconds[n - 1] + pace * (at - step[n - 1]) : seconds[i] + pace * (at - step[i]);
  }

  get earlier() { return this.ghost && !this.ghost.off ? this.ghost : null; }

  ghost_x() { return this.unit === "steps" ? this.ghost.step : this.ghost.seconds; }

  draw_band({ bands, low, high, mean }, n, { name, reads: [column] }) {
    const i = bands.indexOf(column), ghost = this.earlier, g = ghost ? ghost.bands.indexOf(column) : -1, { x } = this;
    const before = this.scale[name], scale = (this.scale[name] = chosenScale(this.wish, low[i], high[i], mean[i], before));
    if (scale.name !== before.name && !this.held) this.ranges[name].setv({ start: 0.1, end: 1e30 });
    const map = (values) => (scale === LINEAR ? values : Float32Array.from(values, scale.to));
    const bottom = map(low[i]), top = map(high[i]), middle = map(mean[i]);
    this.sources[`${name}_band`].data = { x, low: bottom, high: top };
    this.sources[name].data = { x, y: middle };
    const from = scale === LINEAR ? this.from : -Infinity, soft = g < 0 ? [] : map(ghost.mean[g]);
    this.sources[`${name}_ghost`].data = { x: g < 0 ? [] : this.ghost_x(), y: soft };
    const found = robust(bottom, top, middle, x, from, Infinity, this.fit);
    this.settle(name, this.beside_then(found, g < 0 ? null : span([soft], this.ghost_x(), from, this.ranges.steps.end)));
    this.sections[name].head.firstChild.textContent = this.chart[name].title + (scale === LINEAR ? "" : `, ${scale.name} scale`);
  }

  read_band({ step, bands, low, high, mean, windows }, i, { name, reads: [column] }) {
    const k = bands.indexOf(column), half = windows[k] / 2, before = Math.min(half, step[i] - step[0]);
    const rows = Math.round(before + Math.min(before, step[step.length - 1] - step[i])) + 1; // fewer at both ends
    const words = [
      [null, `mean of ${count(Math.min(rows, windows[k]))} steps: `, `${fine(mean[k][i])} nats`],
      [null, "single steps: ", `${fine(low[k][i])} to ${fine(high[k][i])} nats`],
    ];
    const ghost = this.earlier, g = ghost ? ghost.bands.indexOf(column) : -1;
    if (g >= 0) words.push([["ink", GHOST.dash, 0.6], `${ghost.title}: `, `${fine(ghost.mean[g][nearest(this.ghost_x(), this.x[i])])} nats`]);
    return words;
  }

  lines(name, lines, rows, x, keep, off = new Set(), look = {}) {
    const source = this.sources[name];
    if (!source) return;
    const chosen = lines.map((_, k) => k).filter(keep), fg = ink(), line = (k) => lines[k];
    source.data = {
      xs: chosen.map(() => x),
      ys: chosen.map((k) => rows[k]),
      name: chosen.map((k) => line(k)[0]),
      color: chosen.map((k) => (line(k)[1] === "ink" ? fg : line(k)[1])),
      dash: chosen.map((k) => look.dash ?? line(k)[2]),
      alpha: chosen.map((k) => (off.has(line(k)) ? 0 : look.alpha ?? 0.9)),
      width: chosen.map(() => look.width ?? 2),
    };
  }

  chosen(frame) { // of many variables that have a line only the largest are drawn, and those that were picked
    const { now, lines, kl } = frame, { most, largest } = this.legend, size = (i) => now[i] || 0;
    if (lines.length <= most) return frame;
    const order = [...now.keys()].sort((a, b) => size(b) - size(a)).slice(0, largest);
    const drawn = [...new Set([...order, ...this.list.picked])].sort((a, b) => a - b);
    return { ...frame, lines: drawn, kl: drawn.map((i) => kl[lines.indexOf(i)]) };
  }

  kept(frame) { // the variables that have a line, and which of them are hidden
    const shown = frame.lines.map((i) => this.legend.kl[i]);
    return [shown, new Set([...this.list.off].map((i) => this.legend.kl[i]))];
  }

  draw_kl(frame) {
    if (this.alone) this.draw_list(frame, frame.step.length, this.chart.list);
    const { kl } = frame, { x, earlier } = this, [shown, off] = this.kept(frame);
    this.lines("kl", shown, kl, x, () => true, off);
    const seen = span(kl.filter((_, k) => !off.has(shown[k])), x, this.from, Infinity);
    const then = earlier ? this.of_then(earlier.lines.map((i) => earlier.variables[i]), earlier.kl, shown) : [];
    this.lines("kl_ghost", then.map(([line]) => line), then.map(([, row]) => row), earlier ? this.ghost_x() : [], () => true, off, GHOST);
    const old = earlier && span(then.filter(([line]) => !off.has(line)).map(([, row]) => row), this.ghost_x(), this.from, this.ranges.steps.end);
    const found = this.beside_then(seen, old);
    this.settle("kl", found && [Math.min(0, found[0]), found[1]]);
  }

  beside_then(found, old) { // room for an earlier run, as long as the live one stays readable
    if (!found || !old) return found;
    const [low, high] = found, size = high - low;
    return [Math.min(low, Math.max(old[0], low - size)), Math.max(high, Math.min(old[1], high + size))];
  }

  of_then(names, rows, lines) { // what an earlier run has of these lines, in pairs
    return lines.map((line) => [line, rows[names.indexOf(line[0])]]).filter(([, row]) => row);
  }

  read_kl(frame, i, chart, place, py = 0) { // the lines that are nearest to the mouse
    const [shown, off] = this.kept(frame);
    return shown.map((line, k) => [line, frame.kl[k][i]]).filter(([line, value]) => !off.has(line) && Number.isFinite(value))
      .sort((a, b) => Math.abs(place.down(a[1]) - py) - Math.abs(place.down(b[1]) - py)).slice(0, TOLD)
      .sort((a, b) => b[1] - a[1]).map(([[name, color, dash], value]) => [[color, dash], `${name}: `, `${fine(value)} nats`]);
  }

  draw_posterior(frame) { this.posterior.draw(frame); }

  read_posterior(frame, i) { return this.posterior.read(frame, i); }

  draw_list(frame, n, { name }) {
    if (name === "coordinates") return frame.posterior && this.posterior.list.show(frame.posterior);
    const { now, lines, active } = frame;
    this.active.textContent = active ? `active units: ${active}` : "";
    this.list.show(now, lines);
  }

  draw_controls(frame, n) {
    const { step, control, ahead, future, planned } = frame, { x, earlier } = this;
    const all = this.legend.control, { off, values } = this.control, last = step[n - 1];
    const away = new Set([...off].map((i) => all[i])), mixed = Boolean(this.sources.control_log);
    const log = (line) => line[3] === "log", only = !mixed && all.length > 0 && all.every(log);
    // From the present value on, and no further than the axis.
    const next = ahead.findIndex((at) => at > last), tail = next < 0 ? new Float32Array(0) : ahead.subarray(next);
    const steps = n ? Float32Array.from([last, ...tail], (at) => this.along_x(at)) : tail, plans = planned.map((i) => all[i]);
    const rows = planned.map((i, k) => Float32Array.of(control[i][n - 1], ...(next < 0 ? [] : future[k].subarray(next))));
    const then = earlier ? this.of_then(earlier.controls, earlier.control, all) : [], old = earlier ? this.ghost_x() : [];
    const look = { dash: [2, 3], alpha: 0.55, width: 1.5 }, end = this.ranges.steps.end;
    for (const [suffix, keep] of [["", (line) => !mixed || !log(line)], ["_log", log]]) {
      if (suffix && !mixed) continue;
      this.lines(`control${suffix}`, all, control, x, (k) => keep(all[k]), away);
      this.lines(`control${suffix}_ahead`, plans, rows, steps, (k) => keep(plans[k]), away, look);
      this.lines(`control${suffix}_ghost`, then.map(([line]) => line), then.map(([, row]) => row), old, (k) => keep(then[k][0]), away, GHOST);
      const seen = (lines, row) => row.filter((_, k) => keep(lines[k]) && !away.has(lines[k]));
      const before = seen(then.map(([line]) => line), then.map(([, row]) => row));
      const found = around([span(seen(all, control), x, 0, Infinity), span(seen(plans, rows), steps, 0, end), span(before, old, 0, end)]);
      if (!found) continue;
      const logarithmic = Boolean(suffix) || only;
      this.settle(`control${suffix}`, logarithmic ? found : [Math.min(0, found[0]), found[1]], logarithmic);
    }
    if (n) values.forEach((cell, i) => (cell.textContent = short(control[i][n - 1])));
  }

  read_controls({ control }, i) {
    const { off } = this.control;
    return this.legend.control.map(([name, color, dash], k) => [[color, dash], `${name}: `, fine(control[k][i])])
      .filter((_, k) => !off.has(k)).slice(0, 2 * TOLD);
  }

  draw_plane({ step, rate, distortion, bands, mean, marks }, n) {
    const elbo = mean[bands.indexOf("elbo")], { earlier } = this, known = (i) => Number.isFinite(rate[i]) && Number.isFinite(distortion[i]);
    let last = n - 1;
    while (last >= 0 && !known(last)) last--;
    if (last < 0) return;
    const pieces = Array.from({ length: last }, (_, i) => i).filter((i) => known(i) && known(i + 1)), color = this.time;
    const part = (values, ahead) => Float32Array.from(pieces, (i) => values[i + ahead]);
    this.sources.plane.data = {
      x: part(rate, 0), y: part(distortion, 0), x1: part(rate, 1), y1: part(distortion, 1),
      color: pieces.map((i) => color((step[i] - step[0]) / (step[last] - step[0]))),
    };
    this.sources.plane_ghost.data = { x: earlier?.rate ?? [], y: earlier?.distortion ?? [] };
    this.sources.plane_now.data = { x: [rate[last]], y: [distortion[last]] };
    const stops = marks.map(([at]) => step.findIndex((s) => s >= at)).filter((i) => i >= 0);
    this.sources.plane_marks.data = { x: stops.map((i) => rate[i]), y: stops.map((i) => distortion[i]) };
    this.settle("rate", span([rate], this.x, this.from, Infinity));
    this.settle("plane", span([distortion], this.x, this.from, Infinity));
    const reach = 100 * (this.ranges.rate.end - this.ranges.rate.start); // where the ELBO is that of now
    this.sources.iso.data = { x: [rate[last] - reach, rate[last] + reach], y: [distortion[last] + reach, distortion[last] - reach] };
    this.point.textContent = `dotted: ELBO ${short(elbo[last])}`;
    this.point.title = "where the ELBO is that of now; it is better below";
  }

  read_plane({ rate, distortion, bands, mean }, i) {
    const words = { rate: rate[i], distortion: distortion[i], "ELBO at β = 1": mean[bands.indexOf("elbo")][i] };
    return Object.entries(words).map(([name, value]) => [null, `${name}: `, `${fine(value)} nats`]);
  }

  draw_predictive({ predictive: told }, n, { name, title }) {
    if (!told) return;
    this.sketched.textContent = told.words;
    this.sections[name].body.hidden = !told.edges; // words only
    if (!told.edges) return;
    const { edges, observed, low, median, high } = told, left = edges.slice(0, -1), right = edges.slice(1);
    this.sources[name].data = { left, right, middle: left.map((edge, i) => (edge + right[i]) / 2), observed, low, median, high };
    const most = Math.max(...observed, ...high), range = this.ranges[name];
    if (!this.held) this.ranges[`${name}_x`].setv({ start: left[0], end: right.at(-1) });
    if (!this.held && (most > range.end || most < 0.6 * range.end)) range.setv({ start: 0, end: 1.1 * most }); // bars stand on their axis
    const out = observed.filter((share, i) => share < low[i] || share > high[i]).length;
    this.sections[name].body.setAttribute("aria-label", `${title}; ${told.words}; of ${left.length} bins, the data are outside of the middle 90 % in ${out}`);
  }

  measured({ measure, measures }, lines) {
    return lines.filter(({ column }) => measures.includes(column)).map((line) => [line, measure[measures.indexOf(line.column)]]);
  }

  draw_lines(frame, n, { name, lines, scale }) {
    const there = this.measured(frame, lines), log = scale === "log", rows = there.map(([, row]) => row);
    for (const [source, right] of [[name, false], [`${name}_right`, true]]) {
      const mine = (k) => there[k][0].right === right;
      this.lines(source, there.map(([{ look }]) => look), rows, this.x, mine);
      const drawn = rows.filter((_, k) => mine(k)).map((row) => (log ? row.map((v) => (v > 0 ? v : NaN)) : row));
      this.settle(source, span(drawn, this.x, this.from, Infinity), log);
    }
  }

  read_lines(frame, i, { lines }) {
    return this.measured(frame, lines).map(([{ look: [label, ...look] }, row]) => [look, `${label}: `, fine(row[i])]);
  }

  key(name) { // what the lines of a chart are, for a file of it
    const { kind, lines } = this.chart[name];
    if (kind === "kl" && this.last) {
      const [shown, off] = this.kept(this.last);
      return shown.filter((line) => !off.has(line));
    }
    if (kind === "controls") return this.legend.control.filter((_, k) => !this.control.off.has(k));
    if (kind === "lines") return lines.map(({ look }) => look);
    return kind === "band" && this.earlier ? [[this.ghost.title, "ink", GHOST.dash]] : [];
  }
}

// A page may have no such store, as in a frame that shares nothing: then it forgets.
function remembered() { try { return localStorage.getItem(REMEMBERED); } catch { return null; } }
function remember(value) { try { localStorage.setItem(REMEMBERED, value); } catch { /* see above */ } }
