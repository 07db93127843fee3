// BokehJS: once a page, out of the installed bokeh package.
const LOADED = (window.__vitoolkit_bokeh ??= {});

async function gunzip(view) {
  const stream = new Blob([view]).stream().pipeThrough(new DecompressionStream("gzip"));
  return await new Response(stream).text();
}

function evaluate(source) {
  const root = {};
  try {
    new Function(source).call(root); // BokehJS takes `this` for its root: a copy of our own
    return root.Bokeh;
  } catch (error) {
    if (!(error instanceof EvalError)) throw error;
    const script = document.createElement("script"); // a page that forbids eval
    script.textContent = source;
    document.head.appendChild(script);
    script.remove();
    return window.Bokeh;
  }
}

function bokeh(model) {
  const version = model.get("_version");
  if (window.Bokeh?.version === version) return Promise.resolve(window.Bokeh);
  return (LOADED[version] ??= (async () => {
    const id = model.get("_library").replace("IPY_MODEL_", "");
    const library = await model.widget_manager.get_model(id);
    return evaluate(await gunzip(library.get("_source")));
  })().catch((error) => { delete LOADED[version]; throw error; }));
}
