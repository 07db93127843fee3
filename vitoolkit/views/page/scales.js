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
  if (value !== 0 && (size >= 1e7 || size < 1e-4)) return value.toExponential(1).replace(".0e", "e");
  const digits = Math.min(6, Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
  const text = value.toLocaleString("en", { maximumFractionDigits: digits + (String(step).includes("25") ? 1 : 0) });
  return text === "-0" ? "0" : text.replace("-", "−");
}

// Ticks of an axis from start to end, both on the scale: positions and words.
function ticksOf(scale, start, end, count = 5) {
  if (!(end > start)) return [[], []];
  const low = scale.from(start), high = scale.from(end);
  let numbers, step = 0;
  const wide = scale.name !== "linear" && end - start > 0.4;
  if (!wide) {
    [numbers, step] = niceNumbers(Math.min(low, high), Math.max(low, high), count);
  } else {
    const least = scale.unit ?? Math.min(Math.abs(low), Math.abs(high));
    const most = Math.max(Math.abs(low), Math.abs(high));
    numbers = scale.unit ? [0] : [];
    for (let k = Math.floor(Math.log10(least)); k <= Math.ceil(Math.log10(most)); k++) {
      for (const m of end - start < 1 ? [1, 1.5, 2, 3, 4, 5, 6, 8] : end - start < 2.5 ? [1, 2, 5] : [1]) numbers.push(m * 10 ** k, -m * 10 ** k);
    }
    numbers.sort((a, b) => a - b);
  }
  const places = [], words = [], gap = (end - start) / (2.2 * count);
  const put = numbers.map((v) => [scale.to(v), v]).filter(([t]) => t >= start && t <= end);
  for (const [t, v] of put) {
    if (wide && places.length && t - places[places.length - 1] < gap) continue; // no labels on top of each other
    places.push(t);
    words.push(tickText(v, step || Math.abs(v) || scale.unit || 1));
  }
  return [places, words];
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
  const around = span([mean], step, from, to), all = span([low, high], step, from, to);
  if (!around || !all) return all;
  const values = [];
  for (let i = 0; i < step.length; i++) if (step[i] >= from) values.push(low[i], high[i]);
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  const at = (q) => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
  return [Math.min(around[0], at(fit.low)), Math.max(around[1], at(fit.high))];
}
