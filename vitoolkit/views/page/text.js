// Elements and numbers in words.
function tag(name, className = "", text = "") {
  const element = document.createElement(name);
  element.className = className;
  element.textContent = text;
  return element;
}

function short(value) { // with the minus of the axes, which is as wide as a digit
  if (Number.isNaN(value)) return "–";
  const size = Math.abs(value), plain = (text) => text.replaceAll("-", "−");
  if (!Number.isFinite(value)) return plain(String(value));
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return plain(value.toExponential(2));
  if (size >= 1000) return plain(Math.round(value).toLocaleString("en"));
  return plain(value.toPrecision(size < 1 ? 3 : 4).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, ""));
}

function fine(value) { // to read off a chart
  if (!Number.isFinite(value) || (value !== 0 && Math.abs(value) < 1e-3)) return short(value);
  return value.toLocaleString("en", { maximumSignificantDigits: 6 }).replace("-", "−");
}

const percent = (share) => (share < 0.001 ? "<0.1 %" : `${(100 * share).toFixed(1)} %`); // as in tables.py

const count = (value) => Math.round(value).toLocaleString("en");

function duration(seconds) {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

const ink = () =>
  getComputedStyle(document.body).getPropertyValue("--jp-content-font-color1").trim() || "#222";
