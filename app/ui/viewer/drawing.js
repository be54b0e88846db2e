// The mask as an array of label values, the tools that change it, and its history. No page, no graphics here.

const STEPS = 100;
const HISTORY_BYTES = 128 << 20;
export const GROW_LIMIT = 8_000_000; // voxels: a region as large as this has leaked

/** The two axes of a slice across the given axis, and that axis: 0 sagittal, 1 coronal, 2 axial. */
export const planeOf = (axis) => [[1, 2, 0], [0, 2, 1], [0, 1, 2]][axis];

export class Drawing {
  constructor(grid) {
    this.grid = grid;
    this.strides = [1, grid[0], grid[0] * grid[1]];
    this.labels = new Uint8Array(grid[0] * grid[1] * grid[2]);
    this.kept = new Uint8Array(this.labels.length); // as of the last step: what an undo goes back to
    this.restart();
  }

  restart() {
    this.steps = [];
    this.done = 0; // steps[0..done) can be undone, the others redone
    this.box = null; // what has changed since the last step
  }

  at(voxel) {
    return this.labels[this.index(voxel)];
  }

  index([i, j, k]) {
    return i + j * this.strides[1] + k * this.strides[2];
  }

  // tools

  /** A round dab, `size` voxels wide, in the slice across an axis. */
  dab(voxel, axis, size, label) {
    const [u, v] = planeOf(axis);
    const reach = (size - 1) / 2;
    for (let dv = -reach; dv <= reach; dv++) {
      for (let du = -reach; du <= reach; du++) {
        if (du * du + dv * dv > (size * size) / 4) continue;
        const place = [...voxel];
        place[u] += du;
        place[v] += dv;
        this.set(place, label);
      }
    }
  }

  /** Dabs from one voxel to another of the same slice, without gaps. */
  line(from, to, axis, size, label) {
    const length = Math.max(...from.map((value, i) => Math.abs(to[i] - value)));
    for (let step = 0; step <= length; step++) {
      const part = length ? step / length : 0;
      this.dab(from.map((value, i) => Math.round(value + (to[i] - value) * part)), axis, size, label);
    }
  }

  /** Fill a closed outline: all that cannot be reached from around it. */
  fill(outline, axis, label) {
    const [u, v] = planeOf(axis);
    const low = [u, v].map((a) => Math.min(...outline.map((voxel) => voxel[a])) - 1);
    const size = [u, v].map((a, i) => Math.max(...outline.map((voxel) => voxel[a])) + 2 - low[i]);
    const sheet = new Drawing([...size, 1]);
    const flat = (voxel) => [voxel[u] - low[0], voxel[v] - low[1], 0];
    outline.forEach((voxel, i) => sheet.line(flat(outline.at(i - 1)), flat(voxel), 2, 1, 1));
    const outside = sheet.region([0, 0, 0], 2, (index) => sheet.labels[index] === 0);
    for (const index of outside) sheet.labels[index] = 2;
    for (let y = 0; y < size[1]; y++) {
      for (let x = 0; x < size[0]; x++) {
        if (sheet.labels[x + y * size[0]] === 2) continue;
        const place = [...outline[0]];
        place[u] = x + low[0];
        place[v] = y + low[1];
        this.set(place, label);
      }
    }
  }

  /**
   * Label the region of like intensity around a voxel; background only, or other structures too.
   * axis: null in 3D. Returns the number of voxels, or null when the region has leaked.
   */
  grow(voxel, axis, values, low, high, label, replace) {
    const free = (index) => replace || this.labels[index] === 0 || this.labels[index] === label;
    const like = (index) => values[index] >= low && values[index] <= high && free(index);
    const region = this.region(voxel, axis, like);
    if (!region) return null;
    for (const index of region) this.labels[index] = label;
    this.touchAll(region);
    return region.length;
  }

  /** Indices that are connected to a voxel through those for which `inside` holds. */
  region(voxel, axis, inside) {
    const axes = axis === null ? [0, 1, 2] : planeOf(axis).slice(0, 2);
    const seen = new Uint8Array(this.labels.length);
    const found = [];
    const visit = (index) => {
      if (seen[index] || !inside(index)) return;
      seen[index] = 1;
      found.push(index);
    };
    visit(this.index(voxel));
    for (let next = 0; next < found.length; next++) {
      if (found.length > GROW_LIMIT) return null;
      const index = found[next];
      for (const a of axes) {
        const place = Math.floor(index / this.strides[a]) % this.grid[a];
        if (place > 0) visit(index - this.strides[a]);
        if (place < this.grid[a] - 1) visit(index + this.strides[a]);
      }
    }
    return found;
  }

  clear(label) {
    const { labels } = this;
    for (let index = 0; index < labels.length; index++) if (labels[index] === label) labels[index] = 0;
    this.touch(this.difference());
  }

  /** Other labels altogether; null: none. */
  replace(labels) {
    if (labels) this.labels.set(labels);
    else this.labels.fill(0);
    this.touch(this.difference());
  }

  set(voxel, label) {
    if (voxel.some((value, axis) => value < 0 || value >= this.grid[axis])) return;
    this.labels[this.index(voxel)] = label;
    this.touch({ low: voxel, high: voxel });
  }

  // history

  /** The box that has changed since the last step, as one step; null: nothing has changed. */
  commit() {
    const box = this.box;
    this.box = null;
    if (!box) return null;
    const step = { box, before: this.encode(this.kept, box), after: this.encode(this.labels, box) };
    if (step.before.length === step.after.length && step.before.every((value, i) => value === step.after[i])) return null;
    this.copy(this.labels, this.kept, box);
    this.steps.splice(this.done, Infinity, step);
    const bytes = () => this.steps.reduce((sum, { before, after }) => sum + before.byteLength + after.byteLength, 0);
    while (this.steps.length > STEPS || (this.steps.length > 20 && bytes() > HISTORY_BYTES)) this.steps.shift();
    this.done = this.steps.length;
    return box;
  }

  /** Forget what was drawn since the last step. Returns the box. */
  cancel() {
    const box = this.box;
    this.box = null;
    if (box) this.copy(this.kept, this.labels, box);
    return box;
  }

  undo() {
    if (!this.done) return null;
    const step = this.steps[--this.done];
    return this.restore(step.before, step.box);
  }

  redo() {
    if (this.done === this.steps.length) return null;
    const step = this.steps[this.done++];
    return this.restore(step.after, step.box);
  }

  restore(runs, box) {
    this.decode(runs, this.labels, box);
    this.copy(this.labels, this.kept, box);
    return box;
  }

  /** Runs of equal labels in a box: label and length in turn. */
  encode(labels, box) {
    const runs = [];
    let label = -1;
    let length = 0;
    for (const [begin, end] of this.rows(box)) {
      for (let index = begin; index < end; index++) {
        if (labels[index] === label) {
          length++;
        } else {
          if (length) runs.push(label, length);
          label = labels[index];
          length = 1;
        }
      }
    }
    runs.push(label, length);
    return Uint32Array.from(runs);
  }

  decode(runs, labels, box) {
    let run = 0;
    let left = runs[1];
    for (let [index, end] of this.rows(box)) {
      while (index < end) {
        const count = Math.min(left, end - index);
        labels.fill(runs[run], index, index + count);
        index += count;
        left -= count;
        if (!left) left = runs[(run += 2) + 1];
      }
    }
  }

  copy(from, to, box) {
    for (const [begin, end] of this.rows(box)) to.set(from.subarray(begin, end), begin);
  }

  *rows({ low, high }) {
    for (let k = low[2]; k <= high[2]; k++) {
      for (let j = low[1]; j <= high[1]; j++) {
        const begin = this.index([low[0], j, k]);
        yield [begin, begin + high[0] - low[0] + 1];
      }
    }
  }

  /** The smallest box around all that differs from the last step; null: nothing does. */
  difference() {
    const { labels, kept, grid } = this;
    const low = [Infinity, Infinity, Infinity];
    const high = [-1, -1, -1];
    let index = 0;
    for (let k = 0; k < grid[2]; k++) {
      for (let j = 0; j < grid[1]; j++) {
        for (let i = 0; i < grid[0]; i++, index++) {
          if (labels[index] !== kept[index]) widen(low, high, i, j, k);
        }
      }
    }
    return high[0] < 0 ? null : { low, high };
  }

  touch(box) {
    if (box) this.box = around(this.box, box.low, box.high);
  }

  touchAll(indices) {
    const [, row, slice] = this.strides;
    const low = [Infinity, Infinity, Infinity];
    const high = [-1, -1, -1];
    for (const index of indices) {
      widen(low, high, index % row, Math.floor(index / row) % this.grid[1], Math.floor(index / slice));
    }
    if (indices.length) this.touch({ low, high });
  }
}

// Numbers, not arrays: this runs for each voxel of a large region.
function widen(low, high, i, j, k) {
  if (i < low[0]) low[0] = i;
  if (j < low[1]) low[1] = j;
  if (k < low[2]) low[2] = k;
  if (i > high[0]) high[0] = i;
  if (j > high[1]) high[1] = j;
  if (k > high[2]) high[2] = k;
}

function around(box, low, high) {
  if (!box) return { low: [...low], high: [...high] };
  for (let axis = 0; axis < 3; axis++) {
    if (low[axis] < box.low[axis]) box.low[axis] = low[axis];
    if (high[axis] > box.high[axis]) box.high[axis] = high[axis];
  }
  return box;
}
