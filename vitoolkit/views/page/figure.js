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

  async function put(model, el) {
    const past = () => model.get("_ghost") && { ...decode(model.get("_ghost"), model.get("_ghost_arrays")) };
    const charts = new Charts({ legend: model.get("_legend"), ghost: past() }, el, (message) => model.send(message));
    const haunt = () => charts.haunt(past());
    model.on("change:_ghost", haunt);
    await charts.open(model, frame);
    views.add(charts);
    redraw(model);
    const observer = new MutationObserver(() => setTimeout(() => charts.theme(), 50));
    observer.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "class"] });
    const close = charts.close.bind(charts);
    charts.close = () => { observer.disconnect(); model.off("change:_ghost", haunt); views.delete(charts); close(); };
    return charts;
  }

  async function replace(model, place, picture) {
    const live = tag("div", "vitoolkit-after"), keep = tag("button", "vitoolkit-plain vitoolkit-keep", "keep as picture");
    keep.title = "as the notebook shows it when it is opened again";
    place.prepend(live);
    const charts = await put(model, live);
    charts.fix();
    live.append(keep);
    picture.hidden = true;
    keep.onclick = () => { charts.close(); live.remove(); picture.hidden = false; };
    const stays = (place) => whenCleared(place, () => { // the notebook may have drawn the same picture anew
      const now = live.parentNode && document.querySelector(`[data-vitoolkit="${place.dataset.vitoolkit}"]`);
      if (!now) return void charts.close();
      now.prepend(live);
      now.querySelector(".vitoolkit-picture").hidden = true;
      stays(now);
    });
    stays(place);
  }

  // The fit has ended, and its picture is in the notebook: the charts move there, and need no kernel any more.
  async function stay(model) {
    const { id, html } = model.get("_left") ?? {};
    if (!id) return;
    exchange(model.widget_manager.context, id, html);
    const place = await appears(`[data-vitoolkit="${id}"]`), picture = place?.querySelector(".vitoolkit-picture");
    if (!place || place.querySelector(".vitoolkit")) return;
    if (picture) await replace(model, place, picture);
    model.send({ kind: "kept" });
  }

  return {
    initialize({ model }) {
      model.on("change:_left", () => stay(model));
      stay(model);
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
      const charts = await put(model, el);
      const back = () => { if (!document.hidden) model.send({ kind: "here" }); };
      document.addEventListener("visibilitychange", back);
      return () => {
        document.removeEventListener("visibilitychange", back);
        charts.close();
      };
    },
  };
};
