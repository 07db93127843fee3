// Several runs on one sheet: ELBO, sum of the KLs, rate against distortion, and a table to pick by name.

class ComparedRuns extends Sheet {
  constructor(legend, el) {
    super(legend, el, () => {});
    for (const { name, title } of this.charts) this.sight.observe(this.section(name, title).body);
    const { body } = this.section("table", "Runs", "vitoolkit-runs");
    this.sections.table.head.append(tag("span", "vitoolkit-soft", "click to hide or show"));
    this.sight.observe(body);
    this.off = new Set(); // by name: runs may be added
  }

  steps({ runs }) {
    const seen = runs.filter((run) => run.step.length && !this.off.has(run.name));
    if (!seen.length) return;
    this.along(Math.min(...seen.map((run) => run.step[0])), Math.max(...seen.map((run) => run.step[run.step.length - 1])), Math.max(...seen.map((run) => run.edge)));
  }

  lines(source, xs, ys, runs) {
    const fg = ink();
    this.sources[source].data = {
      xs, ys, name: runs.map((run) => run.name), color: runs.map(({ color }) => (color === "ink" ? fg : color)),
      dash: runs.map((run) => run.dash), alpha: runs.map(() => 0.9), width: runs.map(() => 2),
    };
  }

  visible({ runs }) { return runs.filter((run) => !this.off.has(run.name)); }

  late(runs, ...columns) { // ends of the later steps of each run
    return around(runs.flatMap((run) => columns.map((column) => {
      const { step } = run, last = step[step.length - 1];
      return span([run[column]], step, last - this.fit.late * (last - step[0]), Infinity);
    })));
  }

  paint(name, frame) {
    const chart = this.charts.find((chart) => chart.name === name);
    this[`draw_${chart ? chart.kind : name}`](frame, chart);
  }

  draw_runs(frame, { name, reads: [column] }) {
    const runs = this.visible(frame);
    this.lines(name, runs.map((run) => run.step), runs.map((run) => run[column]), runs);
    this.settle(name, this.late(runs, column));
  }

  draw_runs_plane(frame) {
    const runs = this.visible(frame).filter((run) => run.rate.length), end = (values) => values[values.length - 1];
    this.lines("plane", runs.map((run) => run.rate), runs.map((run) => run.distortion), runs);
    this.sources.plane_now.data = {
      x: runs.map((run) => end(run.rate)), y: runs.map((run) => end(run.distortion)),
      color: runs.map((run) => run.color), name: runs.map((run) => run.name), elbo: runs.map((run) => end(run.elbo)),
    };
    this.settle("rate", this.late(runs, "rate"));
    this.settle("plane", this.late(runs, "distortion"));
  }

  draw_table({ runs }) {
    const table = tag("table"), head = tag("tr");
    for (const word of ["run", "", "steps", "ELBO", "rate", "distortion"]) head.append(tag("th", "", word));
    table.append(head);
    const best = Math.max(...runs.map(({ elbo }) => elbo[elbo.length - 1]).filter(Number.isFinite));
    for (const run of runs) {
      const row = tag("tr", this.off.has(run.name) ? "vitoolkit-off" : ""), name = tag("td"), button = tag("button", "vitoolkit-chip");
      button.type = "button";
      button.setAttribute("aria-pressed", String(!this.off.has(run.name)));
      button.append(swatch(run.color, run.dash), tag("span", "name", run.name));
      button.onclick = () => {
        this.off.has(run.name) ? this.off.delete(run.name) : this.off.add(run.name);
        this.draw(this.last);
      };
      name.append(button);
      const end = (values) => (values.length ? short(values[values.length - 1]) : "–"), { elbo } = run;
      row.append(name, tag("td", "vitoolkit-soft", run.status), tag("td", "number", run.steps.toLocaleString("en")),
        tag("td", elbo[elbo.length - 1] === best && runs.length > 1 ? "number best" : "number", end(elbo)),
        tag("td", "number", end(run.rate)), tag("td", "number", end(run.distortion)));
      table.append(row);
    }
    this.sections.table.body.replaceChildren(table);
  }
}

function decodeRuns(header, view) {
  const { runs, ...rest } = header, flat = decode(rest, view);
  flat.runs = runs.map((run, i) => ({ ...run, ...Object.fromEntries(["step", "elbo", "rate", "distortion"].map((name) => [name, flat[`${name} ${i}`]])) }));
  flat.step = flat.runs.find((run) => run.step.length)?.step ?? [];
  return flat;
}

export default () => {
  let frame = null;
  const views = new Set(), show = () => frame && requestAnimationFrame(() => views.forEach((view) => view.draw(frame)));
  return {
    initialize({ model }) {
      const read = (header, arrays) => { if (header && arrays) frame = decodeRuns(header, arrays); };
      read(model.get("_header"), model.get("_arrays"));
      model.on("msg:custom", (content, buffers) => { read(content.header, buffers[0]); show(); });
    },

    async render({ model, el }) {
      el.style.width = "100%";
      const runs = new ComparedRuns(model.get("_legend"), el);
      await runs.open(model, frame);
      views.add(runs);
      show();
      // The page asks as long as a run goes on and somebody looks; nothing is sent to a closed one.
      const timer = setInterval(() => {
        if (frame?.live && runs.seen && !document.hidden) model.send({ kind: "more?" });
      }, 1000);
      const observer = new MutationObserver(() => setTimeout(() => runs.theme(), 50));
      observer.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "class"] });
      return () => { clearInterval(timer); observer.disconnect(); views.delete(runs); runs.close(); };
    },
  };
};
