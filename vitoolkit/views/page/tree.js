// marimo draws anywidgets only: this one draws Jupyter's own widgets, as far as the panel has any, out of their models.
const LAYOUT = ["width", "height", "min_width", "max_width", "flex", "flex_flow", "align_items", "justify_content", "margin", "padding", "visibility"];
const ICONS = { pencil: "✎", check: "✓" };
// What Jupyter's theme says, in marimo's colors, for all that is drawn in the page.
const THEME = `
body { --jp-content-font-color1: #1c2024; --jp-content-font-color2: #60646c; --jp-border-color1: #b9bbc6; --jp-border-color2: #d9d9e0;
  --jp-layout-color0: #fff; --jp-layout-color1: #fff; --jp-layout-color2: #f0f0f3; --jp-brand-color1: #0d74ce; --jp-error-color1: #ce2c31; --jp-warn-color1: #cc4e00; }
body.dark, body.dark-mode, .dark body { --jp-content-font-color1: #edeef0; --jp-content-font-color2: #b0b4ba; --jp-border-color1: #5a6169; --jp-border-color2: #43484e;
  --jp-layout-color0: #181c1a; --jp-layout-color1: #212225; --jp-layout-color2: #2e3135; --jp-brand-color1: #70b8ff; --jp-error-color1: #ff9592; --jp-warn-color1: #ffa057; }`;

if (!document.getElementById("vitoolkit-theme")) {
  const style = tag("style", "", THEME);
  style.id = "vitoolkit-theme";
  document.head.append(style);
}

const idOf = (reference) => reference.replace("IPY_MODEL_", "");

// For each kind: makes its element, and returns what brings that in line with the model.
const KINDS = {
  Box: (el, model, nested) => {
    el.classList.add("widget-box");
    const shown = new Map();
    let turn = Promise.resolve();
    const draw = async () => {
      const wanted = (model.get("children") ?? []).map(idOf);
      for (const [id, child] of shown) if (!wanted.includes(id)) { child.close(); shown.delete(id); }
      await Promise.all(wanted.map(async (id) => shown.has(id) || shown.set(id, await nested(id))));
      const elements = wanted.map((id) => shown.get(id).el);
      if (elements.some((child, i) => el.children[i] !== child)) el.replaceChildren(...elements);
    };
    return () => { turn = turn.then(draw).catch((error) => el.append(tag("div", "", String(error)))); return turn; };
  },
  Label: (el, model) => () => { el.textContent = model.get("value"); },
  HTML: (el, model) => {
    const inner = el.appendChild(tag("div", "widget-html-content"));
    return () => { inner.innerHTML = model.get("value"); };
  },
  Button: (el, model) => {
    el.classList.add("jupyter-button");
    el.addEventListener("click", () => model.send({ event: "click" }));
    return () => {
      el.textContent = model.get("description") || ICONS[model.get("icon")] || "";
      el.classList.toggle("mod-danger", model.get("button_style") === "danger");
    };
  },
  ToggleButton: (el, model) => {
    el.classList.add("jupyter-button");
    el.addEventListener("click", () => change(model, "value", !model.get("value")));
    return () => {
      el.textContent = model.get("description") || ICONS[model.get("icon")] || "";
      el.classList.toggle("mod-active", model.get("value"));
      el.setAttribute("aria-pressed", model.get("value"));
    };
  },
  Dropdown: (el, model) => {
    el.addEventListener("change", () => change(model, "index", el.selectedIndex));
    return () => {
      const labels = model.get("_options_labels") ?? [];
      if (labels.some((label, i) => el.options[i]?.text !== label)) el.replaceChildren(...labels.map((label) => tag("option", "", label)));
      el.selectedIndex = model.get("index") ?? -1;
    };
  },
  Text: (el, model) => {
    el.addEventListener("input", () => change(model, "value", el.value));
    // marimo sends each message by a request of its own: the words may come after it, so it has them with it.
    el.addEventListener("keydown", ({ key }) => key === "Enter" && model.send({ event: "submit", words: el.value }));
    return () => { el.placeholder = model.get("placeholder"); if (el.value !== model.get("value")) el.value = model.get("value"); };
  },
};
const SAME = { HBox: "Box", VBox: "Box" };
const TAGS = { Label: "span", Button: "button", ToggleButton: "button", Dropdown: "select", Text: "input" };

function change(model, name, value) {
  model.set(name, value);
  model.save_changes();
}

async function node(id, manager, host) {
  const model = await manager.get_model(id), name = model.get("_model_name").replace(/Model$/, "");
  const kind = SAME[name] ?? name, el = tag(TAGS[kind] ?? "div", (model.get("_dom_classes") ?? []).join(" "));
  const leaving = new AbortController();
  el.classList.add("vitoolkit-node", `vitoolkit-node-${name}`);
  if (model.get("layout")) {
    const layout = await manager.get_model(idOf(model.get("layout")));
    for (const key of LAYOUT) if (layout.get(key) != null) el.style.setProperty(key.replaceAll("_", "-"), layout.get(key));
  }
  if (name === "Any") {
    host.getWidget(`anywidget:${id}`).then((widget) => widget.render({ el, signal: leaving.signal }))
      .catch((error) => { el.textContent = String(error); });
    return { el, close: () => leaving.abort() };
  }
  const closing = [], nested = async (child) => {
    const made = await node(child, manager, host);
    closing.push(made.close);
    return made;
  };
  const make = KINDS[kind], draw = make ? make(el, model, nested) : () => { el.textContent = `(${name} is not drawn here)`; };
  const update = () => {
    if (model.get("tooltip")) { el.title = model.get("tooltip"); if (!model.get("description")) el.setAttribute("aria-label", el.title); }
    if ("disabled" in el) el.disabled = Boolean(model.get("disabled"));
    return draw();
  };
  model.on("change", update);
  await update();
  return { el, close: () => { model.off("change", update); closing.forEach((close) => close()); } };
}

export default {
  async render({ model, el, host }) {
    el.classList.add("vitoolkit-tree");
    const root = await node(idOf(model.get("root")), model.widget_manager, host);
    el.append(root.el);
    return () => root.close();
  },
};
