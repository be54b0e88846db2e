// A viewer of slices in which a mask can be drawn. What it shows comes from Python as props.value; what the user does
// goes to Python as events ("load", "select", "input", "submit").

import { Drawing, GROW_LIMIT } from "./drawing.js";
import { handle } from "./hands.js";
import { gridOf, labelsOf, maskHeader, pack, read } from "./nifti.js";
import { Panel, SIZES, TOOLS } from "./panel.js";
import { Saver } from "./saver.js";
import { Slices } from "./slices.js";

const PALETTE = (
  "#e69f00 #56b4e9 #009e73 #cc79a7 #f0e442 #d55e00 #0072b2 #882255 #999933 #aa4499 #44aa99 #cc6677 #332288 #ddcc77 #117733"
).split(" ");
const SETTLED_MS = 250;
const ANSWER_MS = 60_000; // longest wait for an answer to "interpolate" or "smooth"
const EMPTY = "Add a scan, and it is shown here";
const NO_WEBGL = "This browser shows no WebGL2 graphics, so the slices are drawn by the server.";

const here = (name) => new URL(name, import.meta.url).href;
const colourOf = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const plain = (value) => (value ? JSON.parse(JSON.stringify(value)) : null); // Gradio's values are proxies

const mounted = new Set();

/** Called by the component's js_on_load. */
export async function mount({ element, props, trigger, upload, watch }) {
  forgetRemoved();
  const root = element.querySelector(".workbench") ?? element;
  const [niivue] = await Promise.all([loadScript("niivue.umd.js"), loadStyle("workbench.css")]);
  const workbench = new Workbench(root, { trigger, upload });
  mounted.add({ element, workbench });
  if (!document.createElement("canvas").getContext("webgl2")) {
    workbench.panel.say(NO_WEBGL);
    trigger("load", { webgl2: false });
    return;
  }
  await workbench.start(niivue);
  trigger("load", { webgl2: true });
  const update = () => workbench.update(plain(props.value));
  watch("value", update);
  update();
}

/** Gradio takes a component off the page without a word; its graphics memory is given back at the next one. */
function forgetRemoved() {
  for (const entry of mounted) {
    if (entry.element.isConnected) continue;
    entry.workbench.slices.nv && entry.workbench.slices.dispose();
    mounted.delete(entry);
  }
}

function loadScript(name) {
  window.irisNiivue ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = here(name);
    script.onload = () => resolve(window.niivue);
    script.onerror = () => reject(new Error(`${name} could not be loaded.`));
    document.head.append(script);
  });
  return window.irisNiivue;
}

function loadStyle(name) {
  return new Promise((resolve) => {
    if (document.querySelector(`link[href="${here(name)}"]`)) return resolve();
    const link = document.createElement("link");
    Object.assign(link, { rel: "stylesheet", href: here(name), onload: resolve, onerror: resolve });
    document.head.append(link);
  });
}

class Workbench {
  constructor(root, { trigger, upload }) {
    this.trigger = trigger;
    this.slices = new Slices();
    this.value = null;
    this.structures = [];
    this.hidden = new Set();
    this.layersOn = new Set();
    this.state = { tool: "look", size: 3, in3d: false, active: 0, outline: false, busy: false };
    this.saver = new Saver({ trigger, upload, snapshot: () => this.snapshot(), say: (text) => this.say(text) });
    this.panel = new Panel(root, this.actions());
    this.panel.say(EMPTY);
    this.panel.section.addEventListener("keydown", (event) => this.key(event));
  }

  async start(niivue) {
    await this.slices.attach(this.panel.canvas, niivue);
    this.setLayout(this.panel.stage.clientWidth < 640 ? "column" : "row");
    handle(this.panel.canvas, this.slices, {
      drawing: (event) => this.value?.draw && this.state.tool !== "look" && (!event.shiftKey || this.state.tool === "grow"),
      stroke: (spot, event) => this.stroke(spot, event),
      look: (voxel) => this.look(voxel),
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
    if (before?.draw && before.id !== value?.id) await this.saver.flush();
    if (!value) return this.empty();
    if (before?.id !== value.id) await this.open(value);
    else if (before.mask_revision !== value.mask_revision) await this.reload(value);
    else if (this.renamedByServer(value)) this.structures = value.structures;
    this.value = value;
    this.free();
    if (!value.draw) this.state.tool = "look";
    this.panel.title.textContent = value.title ?? "";
    this.show();
    await this.showLayers();
    if (value.draw && !this.structures.length) this.panel.askForStructure();
  }

  /** A value that still has the old list is an echo from before the user's last change. */
  renamedByServer({ structures }) {
    const known = JSON.stringify(this.value.structures) === JSON.stringify(structures);
    return !known && !this.saver.dirty && !this.saver.sending;
  }

  empty() {
    this.saver.forget();
    this.value = null;
    this.structures = [];
    this.slices.unload();
    this.panel.say(EMPTY);
  }

  fail(value, error) {
    console.error(error);
    if (this.value?.id === value?.id) return this.say(error.message);
    this.empty();
    this.panel.say(`The scan cannot be shown. ${error.message}`);
  }

  async open(value) {
    this.value = null; // nothing may be drawn meanwhile
    this.saver.forget();
    this.say("loading…");
    const [image, mask] = await Promise.all([read(value.image), value.mask && read(value.mask)]);
    const grid = gridOf(image);
    const range = Object.values(value.windows)[0] ?? [0, 1];
    this.panel.say(null); // the canvas has to have a size before it is drawn
    await this.slices.load(image, range);
    this.header = maskHeader(image);
    this.drawing = new Drawing(grid);
    if (mask) this.drawing.replace(labelsOf(mask, grid));
    this.drawing.commit();
    this.drawing.restart();
    this.slices.picture.setMask(this.drawing.labels);
    this.layerLabels = new Map();
    this.layersOn = new Set(value.layers?.filter((layer) => layer.on).map((layer) => layer.name));
    this.structures = value.structures;
    this.hidden.clear();
    this.state.active = 0;
    this.strokeAxis = null;
    this.windows = value.windows;
    this.setRange(range);
    this.place(value.at ?? grid.map((n) => Math.floor(n / 2)));
    this.say("");
  }

  async reload(value) {
    const labels = value.mask && labelsOf(await read(value.mask), this.drawing.grid);
    this.drawing.replace(labels || null);
    this.step(false);
    this.saver.forget(); // the server has it already
    this.structures = value.structures;
    this.say("");
  }

  async showLayers() {
    const layers = this.value.layers ?? [];
    this.panel.showLayers(layers, this.layersOn);
    const on = layers.filter((layer) => this.layersOn.has(layer.name));
    for (const { url } of on) {
      if (!this.layerLabels.has(url)) this.layerLabels.set(url, labelsOf(await read(url), this.drawing.grid));
    }
    this.slices.picture.setPalette(1, on.flatMap(({ legend }) => legend.map(({ colour }) => [...colourOf(colour), 255])));
    this.slices.picture.setLayers(on.length ? this.stack(on) : null);
    this.slices.draw();
  }

  /** All layers in one array: the labels of the second come after those of the first, and so on. */
  stack(layers) {
    const stacked = new Uint8Array(this.drawing.labels.length);
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

  showReading() {
    const voxel = this.slices.crosshair;
    const millimetres = this.slices.millimetres(voxel).map((value) => value.toFixed(1));
    const intensity = Number(this.slices.intensity(voxel).toPrecision(5));
    const structure = this.structures[this.drawing.at(voxel) - 1]?.name ?? "no structure";
    this.panel.reading.textContent = `voxel ${voxel.join(", ")} · ${millimetres.join(", ")} mm · intensity ${intensity} · ${structure}`;
  }

  setRange(range) {
    this.slices.picture.range = range;
    this.panel.showWindow(this.windows, range);
    this.showTools();
    this.slices.draw();
  }

  setLayout(name) {
    this.panel.layout.value = name;
    this.slices.setLayout(name);
  }

  reset() {
    this.slices.reset();
    this.setRange(Object.values(this.windows)[0] ?? [0, 1]);
  }

  // drawing

  get label() {
    return this.state.tool === "eraser" ? 0 : this.state.active + 1;
  }

  stroke(spot, event) {
    if (this.state.busy) return this.say("one moment, the server is at work");
    if (!this.structures.length) return this.panel.askForStructure();
    this.strokeAxis = spot.axis;
    if (this.state.tool === "grow") return this.grow(spot, event.shiftKey);
    const { tool } = this.state;
    const size = tool === "fill" ? 1 : this.state.size;
    const { axis } = spot;
    const path = [spot.voxel];
    const to = (voxel) => {
      this.drawing.line(path.at(-1), voxel, axis, size, this.label);
      path.push(voxel);
      this.upload(this.drawing.box);
    };
    to(spot.voxel);
    return {
      move: ({ voxel }) => to(voxel),
      end: () => {
        if (tool === "fill") this.drawing.fill(path, axis, this.label);
        this.step();
      },
      cancel: () => this.upload(this.drawing.cancel()),
    };
  }

  grow({ voxel, axis, inside }, replace) {
    if (!inside) return null;
    const { volume, picture } = this.slices;
    const raw = (value) => (value - picture.intercept) / picture.slope;
    const centre = this.slices.intensity(voxel);
    const [low, high] = [raw(centre - this.tolerance), raw(centre + this.tolerance)].sort((a, b) => a - b);
    const across = this.state.in3d ? null : axis;
    const count = this.drawing.grow(voxel, across, volume.img, low, high, this.label, replace);
    if (count === null) this.say(`More than ${GROW_LIMIT / 1e6} million voxels: a smaller tolerance may help.`);
    else if (!count) this.say("Another structure is drawn here. With Shift it is drawn over.");
    this.step();
    return null;
  }

  get tolerance() {
    const [low, high] = this.slices.picture.range;
    return ((high - low) * this.panel.tolerance.value) / 100;
  }

  /** What was drawn becomes one step of the history. save: the server does not know it yet. */
  step(save = true) {
    const box = this.drawing.commit();
    if (box) this.changed(box, save);
  }

  /** The structure list or the voxels in a box are other ones. */
  changed(box, save = true) {
    this.upload(box);
    this.show();
    if (save) this.saver.touch();
  }

  travel(direction) {
    if (!this.value?.draw || this.state.busy) return;
    const box = this.drawing[direction]();
    if (box) this.changed(box);
  }

  upload(box) {
    if (box) this.slices.picture.setMask(this.drawing.labels, box);
    this.slices.draw();
  }

  addStructure(name) {
    if (this.taken(name)) return false;
    if (this.structures.length >= 255) return this.say("There can be 255 structures.");
    const colour = PALETTE[this.structures.length % PALETTE.length];
    this.structures = [...this.structures, { name, colour }];
    this.state.active = this.structures.length - 1;
    if (this.state.tool === "look") this.state.tool = "pen";
    this.show();
    this.saver.now();
    return true;
  }

  rename(index, name) {
    if (this.structures[index].name === name) return true;
    if (this.taken(name)) return false;
    this.hidden.delete(this.structures[index].name);
    this.structures = this.structures.map((each, i) => (i === index ? { ...each, name } : each));
    this.show();
    this.saver.now();
    return true;
  }

  taken(name) {
    const taken = this.structures.some((structure) => structure.name === name);
    if (taken) this.say(`There is a structure “${name}” already.`);
    return taken;
  }

  /** Work on the active structure that the server does; the answer is a value with another mask. */
  async server(action) {
    if (!this.structures.length) return;
    this.state.busy = true;
    this.showTools();
    const axis = action === "interpolate" ? this.strokeAxis : null;
    const sent = await this.saver.send("submit", { action, structure: this.state.active, axis });
    if (!sent) return this.free();
    this.say("the server is at work…");
    this.waiting = setTimeout(() => {
      this.say("The server has not answered.");
      this.free();
    }, ANSWER_MS);
  }

  free() {
    clearTimeout(this.waiting);
    this.state.busy = false;
    if (this.value) this.showTools();
  }

  /** What goes to the server: as it is now, whatever is drawn while it travels. */
  snapshot() {
    const { id } = this.value;
    const file = pack(this.header, this.drawing.labels, "drawing.nii.gz");
    return { id, structures: plain(this.structures), file };
  }

  async download() {
    const url = URL.createObjectURL(await this.snapshot().file);
    const link = document.createElement("a");
    Object.assign(link, { href: url, download: "drawing.nii.gz" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  // what the page shows

  say(text) {
    this.panel.status.textContent = text;
    return null;
  }

  show() {
    this.state.active = Math.max(0, Math.min(this.state.active, this.structures.length - 1));
    const seen = ({ name }) => (this.hidden.has(name) ? 0 : 255);
    this.slices.picture.setPalette(0, this.structures.map((each) => [...colourOf(each.colour), seen(each)]));
    const { active } = this.state;
    this.panel.showStructures({ structures: this.structures, active, hidden: this.hidden, draw: this.value?.draw });
    this.showTools();
    this.showReading();
    this.slices.draw();
  }

  showTools() {
    const undo = this.drawing.done > 0;
    const redo = this.drawing.done < this.drawing.steps.length;
    const { tolerance } = this;
    this.panel.showTools({ ...this.state, draw: this.value?.draw, tolerance, undo, redo });
  }

  set(change) {
    Object.assign(this.state, change);
    this.show();
  }

  actions() {
    const toggled = (set, name) => (set.delete(name) ? set : set.add(name));
    return {
      layout: (name) => this.setLayout(name),
      preset: (name) => this.windows[name] && this.setRange(this.windows[name]),
      range: (range) => this.setRange(range),
      opacity: (part) => {
        this.slices.picture.opacity = part;
        this.slices.draw();
      },
      outline: () => {
        this.slices.picture.outline = !this.state.outline;
        this.set({ outline: !this.state.outline });
      },
      reset: () => this.reset(),
      tool: (tool) => this.set({ tool }),
      size: (size) => this.set({ size }),
      tolerance: () => this.showTools(),
      in3d: () => this.set({ in3d: !this.state.in3d }),
      undo: () => this.travel("undo"),
      redo: () => this.travel("redo"),
      server: (action) => this.server(action),
      clear: () => {
        this.drawing.clear(this.state.active + 1);
        this.step();
      },
      download: () => this.download(),
      toggle: (name) => {
        toggled(this.hidden, name);
        this.show();
      },
      choose: (active) => this.set({ active }),
      rename: (index, name) => this.rename(index, name),
      add: (name) => this.addStructure(name),
      show: () => this.show(),
      layer: (name) => {
        toggled(this.layersOn, name);
        this.showLayers().catch((error) => this.say(error.message));
      },
    };
  }

  // keys

  key(event) {
    if (!this.value || this.panel.help.open || event.altKey || event.target.matches("input, select")) return;
    const act = event.ctrlKey || event.metaKey ? this.history(event) : this.command(event.key);
    if (!act) return;
    event.preventDefault();
    act();
  }

  history({ key, shiftKey }) {
    if (key.toLowerCase() === "z") return () => this.travel(shiftKey ? "redo" : "undo");
    return key.toLowerCase() === "y" && (() => this.travel("redo"));
  }

  command(key) {
    // the patient's right is at the left of the screen, and RAS+ counts to the right
    const moves = { ArrowLeft: [0, 1], ArrowRight: [0, -1], ArrowUp: [1, 1], ArrowDown: [1, -1], PageUp: [2, 1], PageDown: [2, -1] };
    if (moves[key]) return () => this.look(this.slices.crosshair.map((v, axis) => v + (axis === moves[key][0] ? moves[key][1] : 0)));
    if (key === "+" || key === "=") return () => this.slices.zoom(1.25);
    if (key === "-") return () => this.slices.zoom(0.8);
    if (key === "?") return () => this.panel.toggleHelp();
    if (!this.value.draw || this.state.busy) return null;
    const tool = TOOLS.find((each) => each.key === key.toLowerCase());
    if (tool) return () => this.set({ tool: tool.name });
    if (key === "[" || key === "]") return () => this.resize(key === "]" ? 1 : -1);
    return this.structures[key - 1] && (() => this.set({ active: key - 1 }));
  }

  resize(by) {
    const place = SIZES.indexOf(this.state.size) + by;
    this.set({ size: SIZES[Math.max(0, Math.min(SIZES.length - 1, place))] });
  }
}
