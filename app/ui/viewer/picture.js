// What is on the graphics card: the image in its own number type, the mask, the layers, and one small shader.
// NiiVue would bake the window into an RGBA copy of the volume, which takes long for each change of the window.
// Here a window, a colour, an opacity is one number that the shader reads, and a brush stroke uploads its box only.

const UNITS = { image: 11, mask: 12, layers: 13, palette: 14 }; // NiiVue uses 0 to 10

const VERTEX = `#version 300 es
layout(location=0) in vec3 pos;
uniform int axCorSag;
uniform mat4 mvpMtx;
uniform mat4 frac2mm;
uniform float slice;
out vec3 texPos;
void main() {
  texPos = axCorSag == 0 ? vec3(pos.xy, slice) : axCorSag == 1 ? vec3(pos.x, slice, pos.y) : vec3(slice, pos.xy);
  gl_Position = mvpMtx * (frac2mm * vec4(texPos, 1.0));
}`;

const FRAGMENT = `#version 300 es
precision highp float;
precision highp int;
uniform highp SAMPLER imageTexture;
uniform highp usampler3D maskTexture;
uniform highp usampler3D layersTexture;
uniform highp sampler2D paletteTexture;
uniform int axCorSag;
uniform vec2 range;
uniform vec2 opacities;  // of the mask, of the layers
uniform bool outline;
in vec3 texPos;
out vec4 color;

float at(ivec3 voxel, ivec3 size) {
  return float(texelFetch(imageTexture, clamp(voxel, ivec3(0), size - 1), 0).r);
}

// linear within the slice; number textures of integers have no filter of their own
float intensity(ivec3 size) {
  ivec3 u = axCorSag == 2 ? ivec3(0, 1, 0) : ivec3(1, 0, 0);
  ivec3 v = axCorSag == 0 ? ivec3(0, 1, 0) : ivec3(0, 0, 1);
  vec3 normal = vec3(ivec3(1) - u - v);
  vec3 p = texPos * vec3(size) - 0.5;
  p = mix(p, round(p), normal);
  ivec3 low = ivec3(floor(p));
  vec3 part = p - vec3(low);
  float s = dot(part, vec3(u));
  float t = dot(part, vec3(v));
  return mix(mix(at(low, size), at(low + u, size), s), mix(at(low + v, size), at(low + u + v, size), s), t);
}

uint label(highp usampler3D labels, vec3 place) {
  ivec3 size = textureSize(labels, 0);
  return texelFetch(labels, clamp(ivec3(floor(place * vec3(size))), ivec3(0), size - 1), 0).r;
}

vec3 over(vec3 below, highp usampler3D labels, int row, float opacity, vec3 right, vec3 down) {
  uint here = label(labels, texPos);
  vec4 paint = texelFetch(paletteTexture, ivec2(int(here), row), 0);
  bool edge = label(labels, texPos + right) != here || label(labels, texPos - right) != here
    || label(labels, texPos + down) != here || label(labels, texPos - down) != here;
  float alpha = outline ? (edge ? 1.0 : 0.0) : opacity;
  return mix(below, paint.rgb, here == 0u ? 0.0 : paint.a * alpha);
}

void main() {
  float grey = (intensity(textureSize(imageTexture, 0)) - range.x) / max(range.y - range.x, 1e-6);
  vec3 right = dFdx(texPos) * 1.4;
  vec3 down = dFdy(texPos) * 1.4;
  vec3 paint = vec3(clamp(grey, 0.0, 1.0));
  paint = over(paint, maskTexture, 0, opacities.x, right, down);
  paint = over(paint, layersTexture, 1, opacities.y, right, down);
  color = vec4(paint, 1.0);
}`;

const TYPES = [
  [Uint8Array, "usampler3D", "R8UI", "RED_INTEGER", "UNSIGNED_BYTE"],
  [Int16Array, "isampler3D", "R16I", "RED_INTEGER", "SHORT"],
  [Uint16Array, "usampler3D", "R16UI", "RED_INTEGER", "UNSIGNED_SHORT"],
  [Float32Array, "sampler3D", "R32F", "RED", "FLOAT"],
];

export class Picture {
  constructor(gl) {
    this.gl = gl;
    this.programs = {}; // one for each kind of number
    this.textures = {};
    this.range = [0, 1];
    this.opacity = 0.5;
    this.outline = false;
    this.palette = new Uint8Array(256 * 2 * 4);
    this.shader = { uniforms: {}, use: () => this.use() }; // what NiiVue takes for a slice shader
  }

  /** values: a typed array; slope and intercept: from them to the image's units. */
  setImage(values, grid, slope, intercept) {
    this.dispose();
    if (Math.max(...grid) > this.gl.getParameter(this.gl.MAX_3D_TEXTURE_SIZE)) {
      throw new Error("The scan is larger than this computer's graphics can show.");
    }
    const data = TYPES.some(([type]) => values instanceof type) ? values : Float32Array.from(values);
    const [, sampler, ...format] = TYPES.find(([type]) => data instanceof type);
    this.grid = grid;
    [this.slope, this.intercept] = [slope, intercept];
    this.textures.image = this.volume(UNITS.image, grid, format, data);
    this.textures.mask = this.labels(UNITS.mask, grid, null);
    this.textures.layers = this.labels(UNITS.layers, [1, 1, 1], new Uint8Array(1));
    this.program = this.programs[sampler] ??= this.compile(sampler);
    this.shader.uniforms = this.program.uniforms;
    this.setPalette(0, []);
  }

  /** Show these labels as the mask: all of them, or those in a box {low, high} of voxels. */
  setMask(labels, box = { low: [0, 0, 0], high: this.grid.map((n) => n - 1) }) {
    const gl = this.gl;
    const [x, y, z] = box.low;
    const size = box.high.map((high, axis) => high - box.low[axis] + 1);
    gl.activeTexture(gl.TEXTURE0 + UNITS.mask);
    gl.bindTexture(gl.TEXTURE_3D, this.textures.mask);
    const unpack = { ALIGNMENT: 1, ROW_LENGTH: this.grid[0], IMAGE_HEIGHT: this.grid[1] };
    Object.assign(unpack, { SKIP_PIXELS: x, SKIP_ROWS: y, SKIP_IMAGES: z });
    for (const [name, value] of Object.entries(unpack)) gl.pixelStorei(gl[`UNPACK_${name}`], value);
    gl.texSubImage3D(gl.TEXTURE_3D, 0, x, y, z, ...size, gl.RED_INTEGER, gl.UNSIGNED_BYTE, labels);
    for (const name of Object.keys(unpack).slice(1)) gl.pixelStorei(gl[`UNPACK_${name}`], 0);
  }

  /** labels: of all layers that are on, in one array; null: none. */
  setLayers(labels) {
    this.gl.deleteTexture(this.textures.layers);
    const grid = labels ? this.grid : [1, 1, 1];
    this.textures.layers = this.labels(UNITS.layers, grid, labels ?? new Uint8Array(1));
  }

  /** row 0: the mask's colours, row 1: the layers'; colours: [r, g, b, a] in 0..255 of label 1, 2, … */
  setPalette(row, colours) {
    const gl = this.gl;
    this.palette.fill(0, row * 1024, (row + 1) * 1024);
    colours.slice(0, 255).forEach((colour, i) => this.palette.set(colour, row * 1024 + (i + 1) * 4));
    this.textures.palette ??= this.texture(gl.TEXTURE_2D, UNITS.palette);
    gl.activeTexture(gl.TEXTURE0 + UNITS.palette);
    gl.bindTexture(gl.TEXTURE_2D, this.textures.palette);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, 256, 2, 0, gl.RGBA, gl.UNSIGNED_BYTE, this.palette);
  }

  dispose() {
    for (const texture of Object.values(this.textures)) this.gl.deleteTexture(texture);
    this.textures = {};
  }

  use() {
    const { gl, program } = this;
    gl.useProgram(program);
    for (const [name, unit] of Object.entries(UNITS)) {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(name === "palette" ? gl.TEXTURE_2D : gl.TEXTURE_3D, this.textures[name]);
      gl.uniform1i(program.uniforms[`${name}Texture`], unit);
    }
    const raw = this.range.map((value) => (value - this.intercept) / this.slope);
    gl.uniform2f(program.uniforms.range, ...raw);
    gl.uniform2f(program.uniforms.opacities, this.opacity, this.opacity);
    gl.uniform1i(program.uniforms.outline, this.outline ? 1 : 0);
  }

  compile(sampler) {
    const gl = this.gl;
    const program = gl.createProgram();
    const sources = { VERTEX_SHADER: VERTEX, FRAGMENT_SHADER: FRAGMENT.replace("SAMPLER", sampler) };
    for (const [kind, source] of Object.entries(sources)) {
      const shader = gl.createShader(gl[kind]);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
    program.uniforms = {};
    for (let i = 0; i < gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS); i++) {
      const { name } = gl.getActiveUniform(program, i);
      program.uniforms[name] = gl.getUniformLocation(program, name);
    }
    return program;
  }

  texture(target, unit) {
    const gl = this.gl;
    const texture = gl.createTexture();
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(target, texture);
    for (const filter of ["MIN", "MAG"]) gl.texParameteri(target, gl[`TEXTURE_${filter}_FILTER`], gl.NEAREST);
    return texture;
  }

  labels(unit, grid, values) {
    return this.volume(unit, grid, ["R8UI", "RED_INTEGER", "UNSIGNED_BYTE"], values);
  }

  volume(unit, grid, [internal, format, type], values) {
    const gl = this.gl;
    const texture = this.texture(gl.TEXTURE_3D, unit);
    gl.texStorage3D(gl.TEXTURE_3D, 1, gl[internal], ...grid);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    if (values) gl.texSubImage3D(gl.TEXTURE_3D, 0, 0, 0, 0, ...grid, gl[format], gl[type], values);
    return texture;
  }
}
