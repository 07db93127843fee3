// The page of a report: one frame, whole, and the charts of the panel.
const gunzip = async (text) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return await new Response(stream).text();
};
const read = (id) => document.getElementById(id).textContent;
const { header, legend, model, largest, most } = JSON.parse(read("run"));
const all = decode(header, Uint8Array.from(atob(read("numbers")), (c) => c.charCodeAt(0)));
let picked = [];
const frame = () => { // of many variables only the largest have a line, and those that were clicked
  if (legend.kl.length <= most) return all;
  const order = [...all.now.keys()].sort((a, b) => all.now[b] - all.now[a]).slice(0, largest);
  const lines = [...new Set([...order, ...picked])].sort((a, b) => a - b);
  return { ...all, lines, kl: lines.map((i) => all.kl[i]) };
};
const charts = new Charts({ legend }, document.getElementById("figure"), ({ kind, names }) => {
  if (kind !== "lines") return;
  picked = names.map((name) => legend.kl.findIndex((line) => line.at(-1) === name));
  setTimeout(() => charts.draw(frame()));
});
charts.fix();
const root = {};
gunzip(read("bokeh")).then((source) => {
  new Function(source).call(root);
  return charts.attach(root.Bokeh, model);
}).then(() => charts.draw(frame()));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.theme());
