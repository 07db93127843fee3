// The live figure: frames come from the kernel, and what the page drew goes back.

export default () => {
  let frame = null, due = false;
  const views = new Set();

  function redraw(model) { // the newest frame only, when the page has time, never in a hidden tab
    if (due || !views.size || !frame) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      const start = performance.now();
      for (const view of views) view.draw(frame);
      requestAnimationFrame(() => setTimeout(() => { // when Bokeh has painted, and the browser too
        const ms = performance.now() - start, seen = [...views].some((view) => view.seen);
        if (frame.number) model.send({ kind: "drawn", number: frame.number, ms, seen });
      }));
    });
  }

  return {
    initialize({ model }) {
      const header = model.get("_header"), arrays = model.get("_arrays");
      if (header && arrays?.byteLength) frame = withPosterior(null, decode(header, arrays));
      model.on("msg:custom", (content, buffers) => {
        if (content?.kind === "there?" && views.size && !document.hidden) model.send({ kind: "here" });
        if (content?.kind !== "frame") return;
        frame = withPosterior(frame, decode(content.header, buffers[0]));
        redraw(model);
      });
    },

    async render({ model, el }) {
      el.style.width = "100%";
      const past = model.get("_ghost"), ghost = past && { ...decode(past, model.get("_ghost_arrays")) };
      const charts = new Charts({ legend: model.get("_legend"), ghost }, el, (message) => model.send(message));
      await charts.open(model, frame);
      views.add(charts);
      redraw(model);
      const back = () => { if (!document.hidden) model.send({ kind: "here" }); };
      document.addEventListener("visibilitychange", back);
      const observer = new MutationObserver(() => setTimeout(() => charts.theme(), 50));
      observer.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "class"] });
      return () => {
        observer.disconnect();
        document.removeEventListener("visibilitychange", back);
        views.delete(charts);
        charts.close();
      };
    },
  };
};
