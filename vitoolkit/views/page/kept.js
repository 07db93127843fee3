// What stays in the notebook when a fit has ended: where it goes, and when it has gone.

// A page that was loaded in mid-fit gets no word to the cell's output: the notebook itself is told.
function exchange(context, id, html) {
  for (const cell of context?.model?.cells ?? []) {
    const { outputs } = cell;
    for (let i = 0; i < (outputs?.length ?? 0); i++) {
      const view = outputs.get(i).data?.["application/vnd.jupyter.widget-view+json"];
      if (view?.model_id !== id) continue;
      outputs.set(i, { output_type: "display_data", data: { "text/html": html, "text/plain": "" }, metadata: {} });
    }
  }
}

async function appears(selector, seconds = 20) {
  for (const end = Date.now() + 1000 * seconds; Date.now() < end;) {
    const found = document.querySelector(selector);
    if (found) return found;
    await new Promise((done) => setTimeout(done, 50));
  }
  return null;
}

// A cell that is scrolled away may be off the page, whole; an output that was cleared is in no cell,
// and a notebook that was closed is off the page with all its cells.
function whenCleared(el, act) {
  const sight = new IntersectionObserver(() => {
    const cell = el.closest(".jp-Cell");
    if (el.isConnected || (cell && !cell.closest(".jp-Notebook"))) return;
    sight.disconnect();
    act();
  });
  sight.observe(el);
}
