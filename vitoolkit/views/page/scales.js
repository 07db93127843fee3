// Ranges that follow the data without jitter, and scales that Bokeh has not: a logarithm that bears
// negative numbers, and their ticks.

const LINEAR = { name: "linear", to: (v) => v, from: (t) => t };

function logScale(sign) { // of numbers of one sign; those of the other are gaps
  return {
    name: "log",
    to: (v) => (sign * v > 0 ? sign * Math.log10(sign * v) : NaN),
    from: (t) => sign * 10 ** (sign * t),
  };
}

function symlogScale(unit) { // linear within a unit of zero, logarithmic beyond, of both signs
  return {
    name: "symlog",
    unit,
    to: (v) => Math.sign(v) * Math.log10(1 + Math.abs(v) / unit),
    from: (t) => Math.sign(t) * unit * (10 ** Math.abs(t) - 1),
  };
}

// The scale that a person chose, as far as the numbers allow it: log needs all of one sign.
function chosenScale(wish, low, high, mean, before) {
  if (wish === "linear") return LINEAR;
  const ends = [...low, ...high, ...mean].filter(Number.isFinite);
  if (!ends.length) return LINEAR;
  if (wish === "log") {
    if (ends.every((v) => v > 0)) return logScale(1);
    if (ends.every((v) => v < 0)) return logScale(-1);
  }
  const sizes = [...mean].filter(Number.isFinite).map(Math.abs).sort((a, b) => a - b);
  const typical = sizes[sizes.length >> 1] || 1, unit = 10 ** (Math.floor(Math.log10(typical)) - 1);
  if (before?.name === "symlog" && Math.abs(Math.log10(before.unit / unit)) < 1.5) return before;
  return symlogScale(unit);
}

// An end of an axis that grows at 1, 2, 5, 10 ... only, so that it seldom moves.
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= value);
}

// ---- time as a color: from a faint violet to a strong one, which is no variable's ----------------
function timeColors() {
  const pen = document.createElement("canvas").getContext("2d");
  pen.fillStyle = getComputedStyle(document.body).getPropertyValue("--jp-layout-color0").trim() || "#fff";
  const dark = parseInt(pen.fillStyle.slice(3, 5), 16) < 128; // by its green, in #rrggbb
  const [from, to] = dark ? [[122, 100, 184], [240, 232, 255]] : [[166, 142, 218], [43, 10, 92]];
  return (share) => `rgb(${from.map((c, i) => Math.round(c + (to[i] - c) * (share || 0)))})`;
}

// ---- ticks ----------------------------------------------------------------------------------------
function niceStep(size, count) {
  const raw = size / count, power = 10 ** Math.floor(Math.log10(raw));
  return power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= raw * 0.999);
}

function niceNumbers(start, end, count) {
  const step = niceStep(end - start, count), numbers = [];
  for (let k = Math.ceil(start / step); k * step <= end + 1e-9 * step; k++) numbers.push(k * step);
  return [numbers, step];
}

function tickText(value, step) {
  const size = Math.abs(value);
  if (value !== 0 && (size >= 1e7 || size < 1e-4)) return powerText(value);
  const power = Math.floor(Math.log10(step) + 1e-9), quarter = Math.abs(step / 10 ** power - 2.5) < 1e-6;
  const text = value.toLocaleString("en", { maximumFractionDigits: Math.min(8, Math.max(0, Number(quarter) - power)) });
  return text === "-0" ? "0" : text.replace("-", "−");
}

const powerText = (value) => value.toExponential(1).replace(".0e", "e").replace("e+", "e").replaceAll("-", "−");

// Ticks of an axis from start to end, both on the scale: positions and words.
function ticksOf(scale, start, end, count = 5) {
  if (!(end > start)) return [[], []];
  const low = scale.from(start), high = scale.from(end);
  if (scale.name === "linear" || end - start <= 0.4) {
    const [numbers, step] = niceNumbers(Math.min(low, high), Math.max(low, high), count);
    return alike(numbers.map((v) => [scale.to(v), v]).filter(([t]) => t >= start && t <= end), (v) => tickText(v, step));
  }
  const most = Math.max(Math.abs(low), Math.abs(high)), least = scale.unit ?? Math.min(Math.abs(low), Math.abs(high));
  const first = Math.floor(Math.log10(least)), last = Math.ceil(Math.log10(most));
  const apart = 0.75 * (end - start) / count; // no labels on top of each other
  let best = [];
  for (const [factors, every] of [[[1], 4], [[1], 3], [[1], 2], [[1], 1], [[1, 3], 1], [[1, 2, 5], 1], [[1, 1.5, 2, 3, 5, 7], 1], [[1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9], 1]]) {
    const numbers = scale.unit ? [0] : [];
    for (let k = first; k <= last; k++) if (k % every === 0) for (const m of factors) numbers.push(m * 10 ** k, -m * 10 ** k);
    const put = numbers.map((v) => [scale.to(v), v]).filter(([t]) => t >= start && t <= end).sort((a, b) => a[0] - b[0]);
    const roomy = put.filter(([t], i) => !i || t - put[i - 1][0] >= apart);
    if (roomy.length < put.length || put.length > count + 1) break;
    best = put;
  }
  if (best.length < 3 && !scale.unit) { // round numbers, however uneven their distances
    const [numbers] = niceNumbers(Math.min(low, high), Math.max(low, high), count);
    const put = numbers.map((v) => [scale.to(v), v]).filter(([t]) => t >= start && t <= end).sort((a, b) => a[0] - b[0]);
    best = put.reduce((kept, tick) => (kept.length && tick[0] - kept[kept.length - 1][0] < apart ? kept : [...kept, tick]), []);
  }
  return alike(best, (v) => tickText(v, 10 ** (Math.floor(Math.log10(Math.abs(v) || 1)) - 1)));
}

// Places and words, of one way of writing numbers.
function alike(ticks, words) {
  const texts = ticks.map(([, v]) => words(v));
  const powers = texts.some((text) => text.includes("e"));
  return [ticks.map(([t]) => t), powers ? ticks.map(([, v]) => (v === 0 ? "0" : powerText(v))) : texts];
}

// ---- ranges: a range grows as soon as the data leave it and shrinks only when they fill too little of it
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

function around(spans) {
  const found = spans.filter(Boolean);
  return found.length ? [Math.min(...found.map(([low]) => low)), Math.max(...found.map(([, high]) => high))] : null;
}

function settle(range, found, log) {
  if (!range || !found) return;
  const [low, high] = log ? found.map((v) => Math.log10(Math.max(v, 1e-300))) : found;
  let [start, end] = log ? [range.start, range.end].map((v) => Math.log10(Math.max(v, 1e-300))) : [range.start, range.end];
  const size = Math.max(high - low, log ? 0.5 : Math.abs(high) * 0.002, 1e-9);
  const inside = low >= start && high <= end, used = size / (end - start);
  if (inside && used > 0.6) return;
  const pad = 0.12 * size, middle = (low + high) / 2;
  start = Math.min(low, middle - size / 2) - pad;
  end = Math.max(high, middle + size / 2) + pad;
  range.setv(log ? { start: 10 ** start, end: 10 ** end } : { start, end });
}

// All of the mean, the band without its rare spikes.
function robust(low, high, mean, step, from, to, fit) {
  const middle = span([mean], step, from, to), all = span([low, high], step, from, to);
  if (!middle || !all) return all;
  const values = [];
  for (let i = 0; i < step.length; i++) if (step[i] >= from) values.push(low[i], high[i]);
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  const at = (q) => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
  return [Math.min(middle[0], at(fit.low)), Math.max(middle[1], at(fit.high))];
}
