// A viewer of slices in which a mask can be drawn. What it shows comes from Python as props.value; what the user does
// goes to Python as events ("load", "select", "input", "submit").

import { Editor } from "./editor.js";
import { handle } from "./hands.js";
import { actionOf } from "./keys.js";
import { gridOf, labelsOf, maskHeader, read } from "./nifti.js";
import { Panel } from "./panel.js";
import { Slices } from "./slices.js";

const SETTLED_MS = 250;
const NARROW = 640; // pixels: below, the slices lie below each other
const WIDE = 1.8; // times the height: from here on, beside each other
const EMPTY = "Add a scan, and it is shown here";
const LOST = "The graphics card has dropped the picture. Please load the page again.";
const NO_WEBGL = "This browser has no WebGL2 graphics, so the server draws the slices.";

const here = (name) => new URL(name, import.meta.url).href;
const colourOf = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const plain = (value) => (value ? JSON.parse(JSON.stringify(value)) : null); // Gradio's values are proxies

const mounted = new Set();

/** Called by the component's js_on_load. */
export async function mount({ element, props, trigger, upload, watch }) {
  forgetRemoved();
  const [niivue] = await Promise.all([loadScript("niivue.umd.js"), loadStyle("workbench.css")]);
  const workbench = new Workbench(element.querySelector(".workbench") ?? element, { trigger, upload });
  if (!document.createElement("canvas").getContext("webgl2")) {
    workbench.panel.say(NO_WEBGL);
    trigger("load", { webgl2: false });
    return;
  }
  await workbench.start(niivue);
  mounted.add({ element, workbench });
  trigger("load", { webgl2: true });
  const update = () => workbench.update(plain(props.value));
  watch("value", update);
  update();
}

/** Gradio takes a component off the page without a word; its graphics memory is given back when the next one comes. */
function forgetRemoved() {
  for (const entry of mounted) {
    if (entry.element.isConnected) continue;
    entry.workbench.slices.dispose();
    mounted.delete(entry);
  }
}

let script = null;

function loadScript(name) {
  script ??= new Promise((resolve, reject) => {
    const onerror = () => reject(new Error(`${name} could not be loaded.`));
    const element = document.createElement("script");
    document.head.append(Object.assign(element, { src: here(name), onload: () => resolve(window.niivue), onerror }));
  });
  return script;
}

function loadStyle(name) {
  return new Promise((resolve) => {
    if (document.querySelector(`link[href="${here(name)}"]`)) return resolve();
    const link = document.createElement("link");
    document.head.append(Object.assign(link, { rel: "stylesheet", href: here(name), onload: resolve, onerror: resolve }));
  });
}

class Workbench {
  constructor(root, { trigger, upload }) {
    this.trigger = trigger;
    this.value = null; // what is shown
    this.windows = {};
    this.layersOn = new Set(); // names
    this.slices = new Slices();
    this.look = this.look.bind(this);
    this.panel = new Panel(root, this.actions());
    const show = () => this.show();
    const say = (text) => this.say(text);
    this.editor = new Editor({ slices: this.slices, panel: this.panel, trigger, upload, show, say });
    this.panel.say(EMPTY);
    this.panel.section.addEventListener("keydown", (event) => this.key(event));
  }

  async start(niivue) {
    await this.slices.attach(this.panel.canvas, niivue);
    const { canvas } = this.panel;
    canvas.addEventListener("webglcontextlost", () => this.panel.say(LOST));
    canvas.addEventListener("pointermove", (event) => this.showPen(event));
    canvas.addEventListener("pointerleave", (event) => this.showPen(event));
    handle(canvas, this.slices, {
      drawing: (event) => this.editor.draws(event),
      stroke: (spot, event) => this.editor.stroke(spot, event),
      look: this.look,
      range: () => this.slices.picture.range,
      setRange: (range) => this.setRange(range),
    });
  }

  // what Python shows

  /** The newest value counts; one that comes while a volume loads is shown after it. */
  async update(value) {
    this.wanted = value;
    if (this.updating) return;
    this.updating = true;
    while (this.wanted !== undefined) {
      const next = this.wanted;
      this.wanted = undefined;
      try {
        await this.take(next);
      } catch (error) {
        this.fail(next, error);
      }
    }
    this.updating = false;
  }

  async take(value) {
    const before = this.value;
    if (before && before.id !== value?.id) await this.editor.saver.flush();
    if (!value) return this.empty();
    if (before?.id !== value.id) await this.open(value);
    else if (before.mask_revision !== value.mask_revision) await this.reload(value);
    else if (this.renamedByServer(value)) this.editor.structures = value.structures;
    const known = new Set(before?.id === value.id ? before.layers.map(({ name }) => name) : []);
    for (const { name, on } of value.layers) if (on && !known.has(name)) this.layersOn.add(name);
    this.value = value;
    this.editor.allowed = Boolean(value.draw);
    this.panel.title.textContent = value.title ?? "";
    this.editor.free();
    await this.showLayers();
    if (value.draw && !this.editor.structures.length) this.panel.askForStructure();
  }

  /** A value that still has the old list is an echo from before the user's last change. */
  renamedByServer({ structures }) {
    const known = JSON.stringify(this.value.structures) === JSON.stringify(structures);
    return !known && !this.editor.saver.dirty && !this.editor.saver.sending;
  }

  async open(value) {
    this.value = null;
    this.editor.close(); // nothing may be drawn meanwhile
    this.say("loading…");
    const [image, mask] = await Promise.all([read(value.image), value.mask && read(value.mask)]);
    const grid = gridOf(image);
    const range = Object.values(value.windows)[0] ?? [0, 1];
    this.panel.say(null); // the canvas has to have a size before it is drawn
    if (!this.layout) this.setLayout(this.fittingLayout());
    await this.slices.load(image, range);
    const labels = mask && labelsOf(mask, grid);
    this.editor.open({ id: value.id, header: maskHeader(image), grid, labels, structures: value.structures });
    this.layerLabels = new Map(); // by URL
    this.layersOn.clear();
    this.windows = value.windows;
    this.setRange(range);
    this.place(value.at ?? grid.map((n) => Math.floor(n / 2)));
    this.say("");
  }

  async reload({ mask, structures }) {
    const labels = mask && labelsOf(await read(mask), this.slices.grid);
    this.editor.reload(labels, structures);
  }

  empty() {
    this.value = null;
    this.editor.close();
    this.slices.unload();
    this.panel.say(EMPTY);
  }

  fail(value, error) {
    console.error("workbench:", error);
    if (this.value && this.value.id === value?.id) {
      this.editor.free();
      this.say(error.message);
      return;
    }
    this.empty();
    this.panel.say(`The scan cannot be shown. ${error.message}`);
  }

  async showLayers() {
    const { layers } = this.value;
    this.panel.showLayers(layers, this.layersOn);
    const on = layers.filter(({ name }) => this.layersOn.has(name));
    for (const { url } of on) {
      if (!this.layerLabels.has(url)) this.layerLabels.set(url, labelsOf(await read(url), this.slices.grid));
    }
    const colours = on.flatMap(({ legend }) => legend.map(({ colour }) => [...colourOf(colour), 255]));
    this.slices.picture.setPalette(1, colours);
    this.slices.picture.setLayers(on.length ? this.stack(on) : null);
    this.slices.draw();
  }

  /** All layers in one array: the labels of the second come after those of the first, and so on. */
  stack(layers) {
    const stacked = new Uint8Array(this.slices.volume.img.length);
    let before = 0;
    for (const { url, legend } of layers) {
      const labels = this.layerLabels.get(url);
      for (let i = 0; i < labels.length; i++) if (labels[i]) stacked[i] = labels[i] + before;
      before += legend.length;
    }
    return stacked;
  }

  // looking

  place(voxel) {
    this.slices.crosshair = voxel;
    this.showReading();
  }

  look(voxel) {
    this.place(voxel);
    clearTimeout(this.settling);
    this.settling = setTimeout(() => {
      if (this.value) this.trigger("select", { id: this.value.id, at: this.slices.crosshair });
    }, SETTLED_MS);
  }

  setRange(range) {
    this.slices.picture.range = range;
    this.panel.showWindow(this.windows, range);
    this.panel.showTools(this.editor, this.slices.picture.outline);
    this.slices.draw();
  }

  /** The page's width is 0 where the viewer is in a part of the page that is not shown yet. */
  fittingLayout() {
    const { clientWidth: width, clientHeight: height } = this.panel.stage;
    if (width && width < NARROW) return "column";
    return width && width < WIDE * height ? "grid" : "row";
  }

  setLayout(name) {
    this.panel.layout.value = name;
    this.slices.setLayout(name);
  }

  reset() {
    this.slices.reset();
    this.setRange(Object.values(this.windows)[0] ?? [0, 1]);
  }

  key(event) {
    const action = this.value && !this.panel.help.open && actionOf(event, this);
    if (!action) return;
    event.preventDefault();
    action();
  }

  // what the page shows

  say(text) {
    this.panel.status.textContent = text;
  }

  show() {
    const { editor, slices, panel } = this;
    if (!editor.drawing) return;
    editor.active = Math.max(0, Math.min(editor.active, editor.structures.length - 1));
    const seen = ({ name }) => (editor.hidden.has(name) ? 0 : 255);
    slices.picture.setPalette(0, editor.structures.map((each) => [...colourOf(each.colour), seen(each)]));
    panel.showStructures(editor);
    panel.showTools(editor, slices.picture.outline);
    panel.hint.textContent = this.value?.draw?.hint ?? "";
    this.showReading();
    slices.draw();
  }

  showPen(event) {
    const shown = event.type === "pointermove" && event.pointerType !== "touch" && this.editor.hasPen;
    const spot = shown && this.slices.under(event);
    const size = spot && this.slices.voxelSize(spot).map((pixels) => pixels * this.editor.size);
    this.panel.showPen(event, size || null);
  }

  showReading() {
    const voxel = this.slices.crosshair;
    const millimetres = this.slices.millimetres(voxel).map((value) => value.toFixed(1));
    const intensity = Number(this.slices.intensity(voxel).toPrecision(5));
    const where = `voxel ${voxel.join(", ")} · ${millimetres.join(", ")} mm`;
    this.panel.reading.textContent = `${where} · intensity ${intensity} · ${this.editor.nameAt(voxel)}`;
  }

  actions() {
    return {
      layout: (name) => {
        this.layout = name; // the user's choice, for the next scans too
        this.setLayout(name);
      },
      preset: (name) => this.windows[name] && this.setRange(this.windows[name]),
      range: (range) => this.setRange(range),
      reset: () => this.reset(),
      show: () => this.show(),
      opacity: (part) => {
        this.slices.picture.opacity = part;
        this.slices.draw();
      },
      outline: () => {
        this.slices.picture.outline = !this.slices.picture.outline;
        this.show();
      },
      layer: (name) => {
        if (!this.layersOn.delete(name)) this.layersOn.add(name);
        this.showLayers().catch((error) => this.say(error.message));
      },
      tool: (tool) => this.editor.set({ tool }),
      size: (size) => this.editor.set({ size }),
      in3d: () => this.editor.set({ in3d: !this.editor.in3d }),
      choose: (active) => this.editor.set({ active }),
      travel: (direction) => this.editor.travel(direction),
      server: (action) => this.editor.ask(action),
      clear: () => this.editor.clear(),
      download: () => this.editor.download(),
      toggle: (name) => this.editor.toggle(name),
      add: (name) => this.editor.add(name),
      rename: (index, name) => this.editor.rename(index, name),
    };
  }
}
