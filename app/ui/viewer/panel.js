// The page's side of the viewer: buttons, fields, chips. It shows a state and says what the user wants.

export const TOOLS = [
  { name: "look", text: "Look", key: "v", hint: "move the crosshair" },
  { name: "pen", text: "Pen", key: "b", hint: "draw" },
  { name: "eraser", text: "Eraser", key: "e", hint: "rub out" },
  { name: "fill", text: "Fill", key: "f", hint: "draw an outline, it is filled" },
  { name: "grow", text: "Grow", key: "g", hint: "click: all of like intensity around; with Shift over other structures too" },
];
export const SIZES = [1, 3, 5, 9];

const LAYOUTS = [
  ["row", "Side by side"],
  ["grid", "2 × 2"],
  ["column", "Below each other"],
  ["axial", "Axial"],
  ["coronal", "Coronal"],
  ["sagittal", "Sagittal"],
];

const KEYS = [
  ["Wheel", "scroll the slice"],
  ["Ctrl + wheel, + and −", "zoom"],
  ["Shift or middle button + drag", "move the picture"],
  ["Right button + drag", "contrast"],
  ["Arrows, Page up, Page down", "move the crosshair"],
  ["V  B  E  F  G", "look, pen, eraser, fill, grow"],
  ["[ and ]", "smaller and larger pen"],
  ["1 … 9", "structure to draw"],
  ["Ctrl + Z", "undo"],
  ["Ctrl + Shift + Z, Ctrl + Y", "redo"],
  ["?", "this list"],
];

/** An element; attributes: on… are listeners, the others attributes (false: none). */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

const button = (text, title, onclick, attributes = {}) => make("button", { type: "button", title, onclick, ...attributes }, text);

/** A button with a sign instead of a word. */
const sign = (text, label, onclick) => button(text, label, onclick, { "aria-label": label });

const group = (label, ...children) => make("div", { class: "wb-group", role: "group", "aria-label": label }, ...children);

let fields = 0;

function labelled(text, field) {
  field.id = `wb-field-${++fields}`;
  return make("span", { class: "wb-field" }, make("label", { for: field.id }, text), field);
}

const pressed = (element, on) => element.setAttribute("aria-pressed", String(Boolean(on)));

const number = (value) => String(Number(value.toPrecision(4)));

/** actions: what the user can want; see workbench.js. */
export class Panel {
  constructor(root, actions) {
    this.actions = actions;
    this.build();
    root.replaceChildren(this.section);
  }

  build() {
    this.canvas = make("canvas", {
      tabindex: 0,
      role: "application",
      "aria-label": "Slices of the scan. Arrow keys move the crosshair, the question mark lists all keys.",
    });
    this.message = make("p", { class: "wb-message" });
    this.pen = make("div", { class: "wb-pen", hidden: true });
    this.title = make("strong", { class: "wb-title" });
    this.reading = make("span", { class: "wb-reading" });
    this.status = make("span", { class: "wb-status", role: "status" });
    this.structures = make("ul", { class: "wb-chips", "aria-label": "Structures" });
    this.layers = make("ul", { class: "wb-chips", "aria-label": "Layers" });
    this.adding = make("span", { class: "wb-adding" });
    this.hint = make("span", { class: "wb-hint" });
    this.stage = make("div", { class: "wb-stage" }, this.canvas, this.pen, this.message);
    this.body = make("div", { class: "wb-body" }, this.buildView(), this.buildTools(), this.stage, this.buildFoot());
    this.section = make("section", { class: "wb", "aria-label": "Slices" }, this.body, this.buildHelp());
  }

  buildView() {
    const { actions } = this;
    const options = (pairs) => pairs.map(([value, text]) => make("option", { value }, text));
    const field = () => make("input", { type: "number", step: "any", onchange: () => this.typed() });
    this.layout = make("select", { onchange: () => actions.layout(this.layout.value) }, ...options(LAYOUTS));
    this.windows = make("select", { onchange: () => actions.preset(this.windows.value) });
    [this.low, this.high] = [field(), field()];
    const slide = () => actions.opacity(this.opacity.value / 100);
    this.opacity = make("input", { type: "range", min: 0, max: 100, value: 50, oninput: slide });
    this.outline = button("Outline", "Outlines only", () => actions.outline());
    return make(
      "div",
      { class: "wb-bar", role: "toolbar", "aria-label": "View" },
      this.title,
      labelled("Layout", this.layout),
      labelled("Window", this.windows),
      labelled("from", this.low),
      labelled("to", this.high),
      labelled("Opacity", this.opacity),
      this.outline,
      button("Reset view", "Reset view: zoom, position, window", () => actions.reset()),
      sign("?", "Keys", () => this.toggleHelp()),
    );
  }

  buildTools() {
    const { actions } = this;
    this.tools = TOOLS.map(({ name, text, key, hint }) =>
      button(text, `${hint} (${key})`, () => actions.tool(name), { "data-tool": name }),
    );
    this.sizes = SIZES.map((size) => sign(String(size), `Pen of ${size} voxel${size > 1 ? "s" : ""}`, () => actions.size(size)));
    this.tolerance = make("input", { type: "range", min: 1, max: 50, value: 10, oninput: () => actions.show() });
    this.toleranceText = make("span", {});
    this.in3d = button("3D", "Grow in all slices", () => actions.in3d());
    this.grow = group("Grow", labelled("Tolerance", this.tolerance), this.toleranceText, this.in3d);
    this.undo = button("Undo", "Undo (Ctrl+Z)", () => actions.travel("undo"));
    this.redo = button("Redo", "Redo (Ctrl+Y)", () => actions.travel("redo"));
    this.toolbar = make(
      "div",
      { class: "wb-bar wb-tools", role: "toolbar", "aria-label": "Drawing" },
      group("Tool", ...this.tools),
      this.penSizes = group("Pen size in voxels", make("span", { class: "wb-caption" }, "Pen"), ...this.sizes),
      this.grow,
      group("History", this.undo, this.redo),
      group(
        "Structure",
        button("Interpolate", "Fill the slices between the drawn ones", () => actions.server("interpolate")),
        button("Smooth", "Smooth the structure in 3D", () => actions.server("smooth")),
        button("Clear", "Clear this structure", () => actions.clear()),
      ),
      button("Download", "Download the drawing as .nii.gz", () => actions.download()),
      this.hint,
    );
    return this.toolbar;
  }

  buildFoot() {
    return make(
      "div",
      { class: "wb-foot" },
      make("div", { class: "wb-line" }, this.reading, this.status),
      make("div", { class: "wb-line" }, this.structures, this.adding, this.layers),
    );
  }

  buildHelp() {
    const rows = KEYS.flatMap(([key, text]) => [make("dt", {}, key), make("dd", {}, text)]);
    const close = button("Close", "Close the list of keys", () => this.help.close());
    this.help = make("dialog", { "aria-label": "Keys" }, make("dl", {}, ...rows), close);
    return this.help;
  }

  toggleHelp() {
    if (this.help.open) this.help.close();
    else this.help.showModal();
  }

  /** A sentence instead of the slices; null: the slices. */
  say(sentence) {
    this.message.textContent = sentence ?? "";
    this.message.hidden = !sentence;
    this.section.classList.toggle("wb-empty", Boolean(sentence));
  }

  /** The pen's outline around the mouse; size: [width, height] in pixels, or null. */
  showPen(event, size) {
    this.pen.hidden = !size;
    if (!size) return;
    const box = this.stage.getBoundingClientRect();
    const place = { left: event.clientX - box.left, top: event.clientY - box.top, width: size[0], height: size[1] };
    for (const [name, value] of Object.entries(place)) this.pen.style[name] = `${value}px`;
  }

  showWindow(windows, [low, high]) {
    const same = ([, range]) => range[0] === low && range[1] === high;
    const chosen = Object.entries(windows).find(same)?.[0] ?? "";
    const names = [...Object.keys(windows), ""];
    if (names.join("\n") !== this.names) {
      this.windows.replaceChildren(...names.map((name) => make("option", { value: name }, name || "own")));
      this.names = names.join("\n");
    }
    this.windows.value = chosen;
    this.low.value = number(low);
    this.high.value = number(high);
  }

  typed() {
    const range = [Number(this.low.value), Number(this.high.value)];
    if (this.low.value && this.high.value && range[0] < range[1]) this.actions.range(range);
  }

  /** The first argument is an Editor; in3d and the like are its state. */
  showTools({ allowed, tool, size, in3d, tolerance, canUndo, canRedo, busy }, outline) {
    this.toolbar.hidden = !allowed;
    this.tools.forEach((element) => pressed(element, element.dataset.tool === tool));
    this.sizes.forEach((element, i) => pressed(element, SIZES[i] === size));
    this.penSizes.hidden = !["pen", "eraser"].includes(tool);
    this.grow.hidden = tool !== "grow";
    this.toleranceText.textContent = `± ${number(tolerance)}`;
    pressed(this.in3d, in3d);
    pressed(this.outline, outline);
    for (const element of this.toolbar.querySelectorAll("button")) element.disabled = busy;
    this.undo.disabled ||= !canUndo;
    this.redo.disabled ||= !canRedo;
    this.canvas.dataset.tool = allowed ? tool : "look";
  }

  showStructures({ structures, active, hidden, allowed }) {
    const chips = structures.map((structure, i) => {
      const seen = !hidden.has(structure.name);
      const eye = sign(seen ? "●" : "○", `Show ${structure.name}`, () => this.actions.toggle(structure.name));
      pressed(eye, seen);
      const swatch = make("span", { class: "wb-swatch", style: `background:${structure.colour}` });
      if (!allowed) return make("li", {}, eye, swatch, make("span", { class: "wb-name" }, structure.name));
      const ask = () => this.ask(this.structures.children[i], structure.name, (name) => this.actions.rename(i, name));
      // not dblclick: the first click makes the chips anew
      const click = (event) => (event.detail === 2 ? ask() : this.actions.choose(i));
      const choose = button(structure.name, `Draw ${structure.name}; double click: rename`, click, { class: "wb-name" });
      pressed(choose, i === active);
      return make("li", {}, eye, swatch, choose, sign("✎", `Rename ${structure.name}`, ask));
    });
    this.keepFocus(this.structures, () => this.structures.replaceChildren(...chips));
    this.structures.hidden = !structures.length;
    if (!allowed) this.adding.replaceChildren();
    else if (!this.adding.querySelector("input")) this.offerAdding();
  }

  offerAdding() {
    this.adding.replaceChildren(button("+ Structure", "Add a structure", () => this.askForStructure()));
  }

  askForStructure() {
    this.ask(this.adding, "", (name) => this.actions.add(name), () => this.offerAdding());
  }

  /** Ask for a structure's name in place of an element's content; `answer` refuses a name by returning false. */
  ask(place, name, answer, then = () => this.actions.show()) {
    let over = false;
    const close = () => {
      over = true;
      then();
      this.canvas.focus({ preventScroll: true });
    };
    const submit = () => {
      const value = input.value.trim();
      if (!over && value && answer(value) !== false) close();
    };
    const keys = (event) => {
      event.stopPropagation();
      if (event.key === "Enter") submit();
      if (event.key === "Escape") close();
    };
    const input = make("input", { type: "text", maxlength: 60, "aria-label": "Name of the structure", placeholder: "name", onkeydown: keys });
    input.value = name;
    place.replaceChildren(input, button("OK", "Take this name", submit), button("Cancel", "Keep as it was", close));
    input.focus();
    input.select();
  }

  showLayers(layers, on) {
    const chips = layers.map((layer) => {
      const toggle = button(layer.name, `Show ${layer.name}`, () => this.actions.layer(layer.name), { class: "wb-name" });
      pressed(toggle, on.has(layer.name));
      const entry = ({ name, colour }) => make("span", { class: "wb-key" }, make("span", { class: "wb-swatch", style: `background:${colour}` }), name);
      return make("li", {}, toggle, ...(on.has(layer.name) ? layer.legend.map(entry) : []));
    });
    this.keepFocus(this.layers, () => this.layers.replaceChildren(...chips));
    this.layers.hidden = !layers.length;
  }

  /** A list that is made anew keeps the keyboard where it was. */
  keepFocus(list, change) {
    const title = list.contains(document.activeElement) && document.activeElement.title;
    change();
    if (title) list.querySelector(`[title="${CSS.escape(title)}"]`)?.focus();
  }
}
