// The three slices: NiiVue lays them out, knows where a voxel is on the screen, draws crosshair and letters.

import { planeOf } from "./drawing.js";
import { Picture } from "./picture.js";

const AXIAL_CORONAL_SAGITTAL = 3; // NiiVue's number for "all three"
const LAYOUTS = {
  row: { slices: AXIAL_CORONAL_SAGITTAL, tiles: 3 },
  grid: { slices: AXIAL_CORONAL_SAGITTAL, tiles: 2 },
  column: { slices: AXIAL_CORONAL_SAGITTAL, tiles: 1 },
  axial: { slices: 0, tiles: 2 },
  coronal: { slices: 1, tiles: 2 },
  sagittal: { slices: 2, tiles: 2 },
};
const NEVER = 0;
const ZOOMS = [0.5, 40];
const CROSSHAIR = 0.2; // percent of the scan's width, at zoom 1

const OPTIONS = {
  interactive: false, // hands.js does it: NiiVue's own keys, drops and double clicks would surprise here
  isRadiologicalConvention: true,
  showAllOrientationMarkers: true,
  multiplanarShowRender: NEVER,
  multiplanarPadPixels: 6,
  crosshairWidthUnit: "percent",
  crosshairGap: 16,
  crosshairColor: [0.4, 0.8, 1, 0.8],
  fontColor: [0.85, 0.85, 0.85, 1],
  fontSizeScaling: 0.3,
  backColor: [0, 0, 0, 1],
  loadingText: "",
  logLevel: "silent",
};

const SMALLEST = 32; // pixels
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

export class Slices {
  async attach(canvas, niivue) {
    this.canvas = canvas;
    this.niivue = niivue;
    this.nv = new niivue.Niivue(OPTIONS);
    const draw = this.nv.drawScene.bind(this.nv);
    this.nv.drawScene = () => canvas.clientWidth > SMALLEST && draw(); // in a part of the page that is not shown it fails
    await this.nv.attachToCanvas(canvas, false);
    this.picture = new Picture(this.nv.gl);
    this.nv.refreshLayers = (volume) => this.place(volume); // the volume's texture is picture.js's work
    this.setLayout("row");
  }

  get volume() {
    return this.nv.volumes[0];
  }

  /** buffer: an unpacked .nii; range: the first window. */
  async load(buffer, [low, high]) {
    this.unload();
    const options = { url: buffer, name: "scan.nii", cal_min: low, cal_max: high };
    const volume = await this.niivue.NVImage.loadFromUrl(options);
    if (volume.permRAS.join() !== "1,2,3") throw new Error("The scan is not in RAS+ order.");
    this.grid = Array.from(volume.dimsRAS.slice(1, 4));
    const { scl_slope: slope, scl_inter: intercept } = volume.hdr;
    this.picture.setImage(volume.img, this.grid, slope, intercept);
    this.picture.range = [low, high];
    this.nv.customSliceShader = this.picture.shader;
    this.nv.addVolume(volume);
    this.reset();
  }

  unload() {
    this.picture.dispose();
    this.nv.customSliceShader = null;
    if (this.volume) this.nv.removeVolume(this.volume);
  }

  /** What NiiVue has to know of a volume to lay out its slices. */
  place(volume) {
    const { nv } = this;
    const [is, js, ks] = this.grid.map((n) => [-0.5, n - 0.5]);
    const corners = is.flatMap((i) => js.flatMap((j) => ks.map((k) => [i, j, k])));
    const points = corners.map((corner) => Array.from(volume.vox2mm(corner, volume.matRAS)));
    const extreme = (most) => [0, 1, 2].map((axis) => most(...points.map((point) => point[axis])));
    const [low, high] = [extreme(Math.min), extreme(Math.max)];
    const size = [1, 2, 3].map((axis) => volume.pixDimsRAS[axis] * volume.dimsRAS[axis]);
    nv.volumeObject3D = { extentsMin: low, extentsMax: high, fieldOfViewDeObliqueMM: size, furthestVertexFromOrigin: 1 };
    Object.assign(nv.back, { dims: volume.dimsRAS, pixDims: volume.pixDimsRAS });
    Object.assign(nv, nv.sliceScale(true));
    if (nv.crosshairs3D) nv.crosshairs3D.mm[0] = NaN;
  }

  /** Several changes before the next frame are drawn once. */
  draw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.nv.drawScene();
    });
  }

  setLayout(name) {
    this.nv.setMultiplanarLayout(LAYOUTS[name].tiles);
    this.nv.setSliceType(LAYOUTS[name].slices);
  }

  get crosshair() {
    return Array.from(this.nv.frac2vox(this.nv.scene.crosshairPos));
  }

  set crosshair(voxel) {
    const inside = voxel.map((value, axis) => clamp(value, 0, this.grid[axis] - 1));
    this.nv.scene.crosshairPos = this.nv.vox2frac(inside);
    this.draw();
  }

  /** Position in the scanner's millimetres. */
  millimetres(voxel) {
    return Array.from(this.nv.frac2mm(this.nv.vox2frac(voxel), 0, true)).slice(0, 3);
  }

  intensity([i, j, k]) {
    const raw = this.volume.img[i + this.grid[0] * (j + this.grid[1] * k)];
    return raw * this.picture.slope + this.picture.intercept;
  }

  /**
   * What lies under the mouse: {tile, axis, voxel, place, inside}; null: no slice. A drag that has begun in a tile
   * stays in it. place: for zoom and pan.
   */
  under(event, tile = null) {
    const { nv } = this;
    if (!this.volume) return null;
    const box = this.canvas.getBoundingClientRect();
    let x = (event.clientX - box.left) * nv.uiData.dpr;
    let y = (event.clientY - box.top) * nv.uiData.dpr;
    const index = tile ?? nv.tileIndex(x, y);
    const slice = nv.screenSlices[index];
    if (!slice) return null;
    const [left, top, width, height] = slice.leftTopWidthHeight;
    x = clamp(x, left + 0.01, left + width - 0.01);
    y = clamp(y, top + 0.01, top + height - 0.01);
    const fraction = nv.screenXY2TextureFrac(x, y, index, false);
    const axis = 2 - slice.axCorSag;
    const voxel = this.grid.map((n, a) => Math.floor(fraction[a] * n));
    voxel[axis] = this.crosshair[axis]; // exact, where the fraction may be a rounding error beside it
    const inside = voxel.every((value, a) => value >= 0 && value < this.grid[a]);
    return { tile: index, axis, voxel, inside, place: nv.frac2mm(fraction) };
  }

  /** Width and height on the page of a voxel of the slice under the mouse. */
  voxelSize({ tile, axis }) {
    const { leftTopWidthHeight: box, fovMM: view } = this.nv.screenSlices[tile];
    const sizes = planeOf(axis).slice(0, 2).map((a) => this.volume.pixDimsRAS[a + 1]);
    return sizes.map((size, i) => (size * box[2 + i]) / Math.abs(view[i]) / this.nv.uiData.dpr);
  }

  /** Zoom by a factor around a place, which stays where it is on the screen. */
  zoom(factor, place = this.nv.frac2mm(this.nv.scene.crosshairPos)) {
    const pan = this.nv.scene.pan2Dxyzmm;
    const zoom = clamp(pan[3] * factor, ...ZOOMS);
    for (let axis = 0; axis < 3; axis++) pan[axis] += place[axis] * (pan[3] - zoom);
    this.setZoom(zoom);
  }

  /** The crosshair stays as thin as it was; NiiVue makes it anew when its position is unknown. */
  setZoom(zoom) {
    this.nv.scene.pan2Dxyzmm[3] = zoom;
    this.nv.opts.crosshairWidth = CROSSHAIR / zoom;
    if (this.nv.crosshairs3D) this.nv.crosshairs3D.mm[0] = NaN;
    this.draw();
  }

  /** Bring the place `from` to where the place `to` is on the screen. */
  pan(from, to) {
    const pan = this.nv.scene.pan2Dxyzmm;
    for (let axis = 0; axis < 3; axis++) pan[axis] += (to[axis] - from[axis]) * pan[3];
    this.nv.drawScene(); // at once: the next move is measured in the new view
  }

  reset() {
    this.nv.scene.pan2Dxyzmm = new Float32Array([0, 0, 0, 1]);
    this.setZoom(1);
  }

  dispose() {
    this.unload();
    this.nv.cleanup();
    this.nv.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }
}
