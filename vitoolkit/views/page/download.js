// A link to a file on the kernel's machine: asked for at a click, it comes through the kernel.
function renderDownload({ model, el }) {
  const link = tag("a", "vitoolkit-download");
  link.href = "#";
  el.append(link);
  const show = () => {
    const name = model.get("file");
    link.textContent = name && `download ${name}`;
    link.hidden = !name;
  };
  const ask = (event) => {
    event.preventDefault();
    link.textContent = "fetching ...";
    model.send({ kind: "fetch" });
  };
  const came = (content, buffers) => {
    if (content?.kind !== "file") return;
    show();
    const url = URL.createObjectURL(new Blob([buffers[0]])), save = tag("a");
    Object.assign(save, { href: url, download: content.name });
    save.click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  };
  link.addEventListener("click", ask);
  model.on("change:file", show);
  model.on("msg:custom", came);
  show();
  return () => { model.off("change:file", show); model.off("msg:custom", came); link.remove(); };
}

export default { render: renderDownload };
