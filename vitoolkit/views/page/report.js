// The page of a report: one frame, whole, and the charts of the panel.
const gunzip = async (text) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return await new Response(stream).text();
};
const read = (id) => document.getElementById(id).textContent;
const { header, legend, model } = JSON.parse(read("run"));
const frame = decode(header, Uint8Array.from(atob(read("numbers")), (c) => c.charCodeAt(0)));
const charts = new Charts({ legend }, document.getElementById("figure"));
charts.fix();
const root = {};
gunzip(read("bokeh")).then((source) => {
  new Function(source).call(root);
  return charts.attach(root.Bokeh, model);
}).then(() => charts.draw(frame));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.theme());
