// Reading and writing .nii.gz in the browser: just what the server sends (NIfTI-1, little-endian, on one RAS+ grid).

const HEADER_BYTES = 352; // the header's 348 and four that say "no extensions"
const UINT8 = 2;

/** The unpacked file at a URL, as an ArrayBuffer. */
export async function read(url) {
  const response = await fetch(url, { credentials: "same-origin" });
  if (!response.ok) throw new Error(`The file could not be loaded (${response.status}).`);
  const packed = await response.arrayBuffer();
  const magic = new Uint8Array(packed, 0, 2);
  if (magic[0] !== 0x1f || magic[1] !== 0x8b) return packed; // a proxy may have unpacked it on the way
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(unpacked).arrayBuffer();
}

/** Size of the grid: [ni, nj, nk]. */
export function gridOf(buffer) {
  const header = new DataView(buffer);
  if (header.getInt32(0, true) !== 348) throw new Error("The file is not a NIfTI image.");
  return [1, 2, 3].map((axis) => Math.max(1, header.getInt16(40 + 2 * axis, true)));
}

/** The label values of a mask, after a check that it has the image's grid. */
export function labelsOf(buffer, grid) {
  const header = new DataView(buffer);
  if (gridOf(buffer).join() !== grid.join()) throw new Error("The mask does not have the grid of the scan.");
  if (header.getInt16(70, true) !== UINT8) throw new Error("The mask is not of bytes.");
  return new Uint8Array(buffer, header.getFloat32(108, true), grid[0] * grid[1] * grid[2]);
}

/** The image's header, changed to one of a mask: the same grid and position. */
export function maskHeader(image) {
  const bytes = new Uint8Array(HEADER_BYTES);
  bytes.set(new Uint8Array(image, 0, 348));
  const header = new DataView(bytes.buffer);
  header.setInt16(40, 3, true); // three dimensions
  for (let axis = 4; axis <= 7; axis++) header.setInt16(40 + 2 * axis, 1, true);
  header.setInt16(68, 0, true); // no intent
  header.setInt16(70, UINT8, true);
  header.setInt16(72, 8, true); // bits per voxel
  header.setFloat32(108, HEADER_BYTES, true); // where the voxels begin
  header.setFloat32(112, 1, true); // slope
  header.setFloat32(116, 0, true); // intercept
  header.setFloat32(124, 0, true); // window
  header.setFloat32(128, 0, true);
  bytes.fill(0, 148, 252); // what the image said of itself: nobody needs it in a mask
  bytes.set([0x6e, 0x2b, 0x31, 0], 344); // "n+1": header and voxels in one file
  return bytes;
}

/** A .nii.gz of the labels. The Blob copies them at once, so that drawing can go on. */
export async function pack(header, labels, name) {
  const packed = new Blob([header, labels]).stream().pipeThrough(new CompressionStream("gzip"));
  return new File([await new Response(packed).blob()], name, { type: "application/gzip" });
}
