// What the user does to the mask: strokes, structures, history, and the work that the server does on it.

import { Drawing, GROW_LIMIT } from "./drawing.js";
import { pack } from "./nifti.js";
import { SIZES } from "./panel.js";
import { Saver } from "./saver.js";

const PALETTE = (
  "#e69f00 #56b4e9 #009e73 #cc79a7 #f0e442 #d55e00 #0072b2 #882255 #999933 #aa4499 #44aa99 #cc6677 #332288 #ddcc77 #117733"
).split(" ");
const MOST_STRUCTURES = 255; // a voxel's label is a byte
const ANSWER_MS = 60_000; // longest wait for an answer to "interpolate" or "smooth"
const FILE = "drawing.nii.gz";

export class Editor {
  /** show(): the page is to show the editor's new state; say(text): the status line. */
  constructor({ slices, panel, trigger, upload, show, say }) {
    Object.assign(this, { slices, panel, show, say });
    this.saver = new Saver({ trigger, upload, say, snapshot: () => this.snapshot() });
    this.structures = [];
    this.hidden = new Set(); // names of structures
    this.allowed = false; // to draw
    this.tool = "look";
    this.size = 3;
    this.in3d = false;
    this.active = 0; // index of the structure that is drawn
    this.busy = false; // the server is at work on the drawing
  }

  /** Another scan: its id, the header of its masks, its grid, its labels or null, its structures. */
  open({ id, header, grid, labels, structures }) {
    Object.assign(this, { id, header, structures, active: 0, strokeAxis: null });
    this.hidden.clear();
    this.drawing = new Drawing(grid);
    if (labels) this.drawing.replace(labels);
    this.drawing.commit();
    this.drawing.restart();
    this.slices.picture.setMask(this.drawing.labels);
  }

  /** Another mask of the same scan, from the server: a step that can be undone. */
  reload(labels, structures) {
    this.structures = structures;
    this.drawing.replace(labels);
    this.paint(this.drawing.commit());
    this.saver.forget();
    this.say("");
  }

  close() {
    this.saver.forget();
    this.drawing = null;
    this.structures = [];
    this.allowed = false;
  }

  /** Whether a press on a slice draws. */
  draws({ shiftKey }) {
    return this.allowed && this.tool !== "look" && (!shiftKey || this.tool === "grow");
  }

  get hasPen() {
    return this.allowed && ["pen", "eraser"].includes(this.tool);
  }

  get label() {
    return this.tool === "eraser" ? 0 : this.active + 1;
  }

  get canUndo() {
    return this.drawing?.done > 0;
  }

  get canRedo() {
    return this.drawing?.done < this.drawing?.steps.length;
  }

  nameAt(voxel) {
    return this.structures[this.drawing.at(voxel) - 1]?.name ?? "no structure";
  }

  // tools

  /** A press at a spot: the stroke that it begins, or null where it was a click that is done. */
  stroke(spot, event) {
    if (this.busy) return this.refuse("One moment, the server is at work.");
    if (!this.structures.length) return this.panel.askForStructure();
    this.strokeAxis = spot.axis;
    if (this.tool === "grow") return this.grow(spot, event.shiftKey);
    const { tool, label, drawing } = this;
    const { axis } = spot;
    const current = () => drawing === this.drawing; // another scan may come while the button is down
    const size = tool === "fill" ? 1 : this.size;
    const path = [spot.voxel];
    const to = (voxel) => {
      drawing.line(path.at(-1), voxel, axis, size, label);
      path.push(voxel);
      this.paint(drawing.box);
    };
    to(spot.voxel);
    return {
      move: ({ voxel }) => current() && to(voxel),
      end: () => {
        if (!current()) return;
        if (tool === "fill") drawing.fill(path, axis, label);
        this.step();
      },
      cancel: () => current() && this.paint(drawing.cancel()),
    };
  }

  grow({ voxel, axis, inside }, replace) {
    if (!inside) return null;
    const { volume, picture } = this.slices;
    const raw = (value) => (value - picture.intercept) / picture.slope;
    const centre = this.slices.intensity(voxel);
    const [low, high] = [centre - this.tolerance, centre + this.tolerance].map(raw).sort((a, b) => a - b);
    const across = this.in3d ? null : axis;
    const count = this.drawing.grow(voxel, across, volume.img, low, high, this.label, replace);
    if (count === null) return this.refuse(`More than ${GROW_LIMIT / 1e6} million voxels: try a smaller tolerance.`);
    if (!count) return this.refuse("Another structure is drawn here. Shift + click draws over it.");
    this.step();
    return null;
  }

  /** In the image's units; the slider is a share of the window. */
  get tolerance() {
    const [low, high] = this.slices.picture.range;
    return ((high - low) * this.panel.tolerance.value) / 100;
  }

  clear() {
    this.drawing.clear(this.active + 1);
    this.step();
  }

  set(change) {
    Object.assign(this, change);
    this.show();
  }

  resize(by) {
    const place = SIZES.indexOf(this.size) + by;
    this.set({ size: SIZES[Math.max(0, Math.min(SIZES.length - 1, place))] });
  }

  // history

  /** What was drawn becomes one step. */
  step() {
    this.changed(this.drawing.commit());
  }

  /** direction: "undo" or "redo". */
  travel(direction) {
    const still = this.allowed && !this.busy && !this.drawing.box; // not in the middle of a stroke
    if (still) this.changed(this.drawing[direction]());
  }

  changed(box) {
    if (!box) return;
    this.paint(box);
    this.show();
    this.saver.touch();
  }

  /** Show the labels in a box of voxels. */
  paint(box) {
    if (box) this.slices.picture.setMask(this.drawing.labels, box);
    this.slices.draw();
  }

  // structures

  add(name) {
    if (this.taken(name)) return false;
    const count = this.structures.length;
    if (count === MOST_STRUCTURES) return this.refuse(`There can be ${MOST_STRUCTURES} structures.`);
    this.structures = [...this.structures, { name, colour: PALETTE[count % PALETTE.length] }];
    this.set({ active: count, tool: this.tool === "look" ? "pen" : this.tool });
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

  toggle(name) {
    if (!this.hidden.delete(name)) this.hidden.add(name);
    this.show();
  }

  // the server's part

  /** action: "interpolate" or "smooth", of the active structure; the answer is a value with another mask. */
  async ask(action) {
    if (!this.structures.length) return;
    this.set({ busy: true });
    const axis = action === "interpolate" ? this.strokeAxis : null;
    const sent = await this.saver.send("submit", { action, structure: this.active, axis });
    if (!sent) return this.free();
    this.say("The server is at work…");
    this.waiting = setTimeout(() => {
      this.say("The server has not answered.");
      this.free();
    }, ANSWER_MS);
  }

  free() {
    clearTimeout(this.waiting);
    this.busy = false;
    this.show();
  }

  /** What goes to the server: as it is now, whatever is drawn while it travels. */
  snapshot() {
    const structures = this.structures.map((structure) => ({ ...structure }));
    return { id: this.id, structures, file: pack(this.header, this.drawing.labels, FILE) };
  }

  async download() {
    const href = URL.createObjectURL(await this.snapshot().file);
    Object.assign(document.createElement("a"), { href, download: FILE }).click();
    setTimeout(() => URL.revokeObjectURL(href), 10_000);
  }

  refuse(text) {
    this.say(text);
    return null;
  }
}
