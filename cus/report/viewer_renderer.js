// Draws Gaussians with WebGL2: quads in the order of the sort (one plain draw: instances of four vertices each are slow on
// many drivers), blended into a half-float picture (bytes would round off
// what the many faint layers add up to), and that onto the canvas.

const TEXELS = 2048; // a row of the data textures; every WebGL2 has textures of this width

class Renderer {
  constructor(canvas, scene, shaders) {
    const options = { alpha: false, antialias: false, depth: false, powerPreference: "high-performance" };
    const gl = this.gl = canvas.getContext("webgl2", options);
    if (!gl) throw new Error("this browser or its graphics driver offers no WebGL2");
    this.canvas = canvas;
    this.scene = scene;
    this.drawn = 0;
    this.floats = ["EXT_color_buffer_float", "EXT_color_buffer_half_float"].some(name => gl.getExtension(name));
    this.splats = this.program(shaders, "splat");
    this.screen = this.program(shaders, "screen");
    this.lines = this.program(shaders, "lines");
    this.gaussians = this.dataTexture(scene.rows, gl.RGBA32UI, gl.RGBA_INTEGER, 4);
    this.harmonics = this.dataTexture(scene.harmonics, gl.R32UI, gl.RED_INTEGER, 1);
    this.order = this.dataTexture(new Uint32Array(scene.count), gl.R32UI, gl.RED_INTEGER, 1);
    this.orders = new Uint32Array(TEXELS * Math.ceil(scene.count / TEXELS));
    this.length = 0; // of the order
    this.quads = this.quadIndices(scene.count);
    this.frusta = this.layout([[this.lines, "point", 3], [this.lines, "tint", 3]]);
    this.nothing = gl.createVertexArray();
    this.picture = null;
    this.setUniforms();
  }

  program(shaders, name) {
    const gl = this.gl, program = gl.createProgram();
    for (const [kind, type] of [["vert", gl.VERTEX_SHADER], ["frag", gl.FRAGMENT_SHADER]]) {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, shaders[`${name}.${kind}`]);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost())
      throw new Error(`the graphics driver refuses the ${name} program: ` +
        gl.getAttachedShaders(program).map(shader => gl.getShaderInfoLog(shader)).join(" "));
    const places = {};
    for (let i = 0; i < gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS); i++) {
      const uniform = gl.getActiveUniform(program, i).name;
      places[uniform] = gl.getUniformLocation(program, uniform);
    }
    return { program, places };
  }

  dataTexture(words, format, layout, each) {
    const gl = this.gl, texture = gl.createTexture();
    const height = Math.max(1, Math.ceil(words.length / (TEXELS * each)));
    const padded = new Uint32Array(TEXELS * height * each);
    padded.set(words);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    gl.texImage2D(gl.TEXTURE_2D, 0, format, TEXELS, height, 0, layout, gl.UNSIGNED_INT, padded);
    return texture;
  }

  // Two triangles for every four vertices.
  quadIndices(count) {
    const gl = this.gl, array = gl.createVertexArray(), indices = new Uint32Array(6 * count);
    for (let i = 0; i < count; i++) indices.set([4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 2, 4 * i + 1, 4 * i + 3], 6 * i);
    gl.bindVertexArray(array);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, indices, gl.STATIC_DRAW);
    gl.bindVertexArray(null);
    return array;
  }

  // A vertex array over one interleaved buffer of floats.
  layout(attributes) {
    const gl = this.gl, array = gl.createVertexArray(), buffer = gl.createBuffer();
    gl.bindVertexArray(array);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    const stride = 4 * attributes.reduce((sum, [, , width]) => sum + width, 0);
    let at = 0;
    for (const [{ program }, name, width] of attributes) {
      const place = gl.getAttribLocation(program, name);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, width, gl.FLOAT, false, stride, at);
      at += 4 * width;
    }
    gl.bindVertexArray(null);
    return { array, buffer, length: 0 };
  }

  setUniforms() {
    const { gl, scene, splats: { program, places } } = this;
    gl.useProgram(program);
    gl.uniform1i(places.gaussians, 0);
    gl.uniform1i(places.harmonics, 1);
    gl.uniform1i(places.order, 2);
    gl.uniform1i(places.degree, scene.degree);
    gl.uniform1i(places.antialiased, scene.antialiased);
    gl.uniform2fv(places.logScales, scene.log_scales);
    gl.uniform2fv(places.colors, scene.colors);
    gl.uniform3fv(places.bands, scene.bands);
    gl.uniform1f(places.near, scene.near);
  }

  setOrder(order) {
    const gl = this.gl;
    this.orders.set(order);
    this.length = order.length;
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.order);
    const lines = this.orders.length / TEXELS;
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, TEXELS, lines, gl.RED_INTEGER, gl.UNSIGNED_INT, this.orders);
  }

  setLines(values) {
    const gl = this.gl;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.frusta.buffer);
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(values), gl.STATIC_DRAW);
    this.frusta.length = values.length / 6;
  }

  // The half-float picture at a size; bytes where the driver cannot draw into floats.
  target(width, height) {
    const gl = this.gl, old = this.picture;
    if (old && old.width === width && old.height === height) return old;
    if (old) { gl.deleteTexture(old.texture); gl.deleteFramebuffer(old.frame); }
    const texture = gl.createTexture(), frame = gl.createFramebuffer();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texStorage2D(gl.TEXTURE_2D, 1, this.floats ? gl.RGBA16F : gl.RGBA8, width, height);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
    gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
    this.picture = { width, height, texture, frame };
    return this.picture;
  }

  use({ program, places }, view, width, height) {
    const gl = this.gl, { focal, center } = fitted(view, width, height);
    gl.useProgram(program);
    gl.uniformMatrix3fv(places.rotation, true, view.rotation);
    gl.uniform3fv(places.position, view.position);
    gl.uniform2fv(places.focal, focal);
    gl.uniform2fv(places.center, center);
    gl.uniform2f(places.size, width, height);
    return places;
  }

  composite(view, width, height, depthScale) {
    const gl = this.gl, places = this.use(this.splats, view, width, height);
    gl.uniform1f(places.depthScale, depthScale);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.target(width, height).frame);
    gl.viewport(0, 0, width, height);
    [this.order, this.harmonics, this.gaussians].forEach((texture, i) => {
      gl.activeTexture(gl.TEXTURE2 - i);
      gl.bindTexture(gl.TEXTURE_2D, texture);
    });
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.bindVertexArray(this.quads);
    gl.drawElements(gl.TRIANGLES, 6 * this.length, gl.UNSIGNED_INT, 0);
    gl.disable(gl.BLEND);
  }

  // The view on the canvas; detail below 1 draws fewer pixels and enlarges them.
  draw(view, detail, withLines) {
    const gl = this.gl, { width, height } = this.canvas;
    this.composite(view, Math.max(1, Math.round(width * detail)), Math.max(1, Math.round(height * detail)), 0);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, width, height);
    gl.useProgram(this.screen.program);
    gl.uniform2f(this.screen.places.size, width, height);
    gl.bindTexture(gl.TEXTURE_2D, this.picture.texture);
    gl.bindVertexArray(this.nothing);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    if (!withLines) return;
    const places = this.use(this.lines, view, width, height);
    gl.uniform1f(places.near, this.scene.near);
    gl.bindVertexArray(this.frusta.array);
    gl.drawArrays(gl.LINES, 0, this.frusta.length);
  }

  // Resolves once the graphics processor has done what it was given.
  finished() {
    const gl = this.gl, sync = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
    gl.flush();
    return new Promise(done => {
      const look = () => {
        if (!gl.isContextLost() && gl.getSyncParameter(sync, gl.SYNC_STATUS) !== gl.SIGNALED) setTimeout(look, 2);
        else { gl.deleteSync(sync); done(); }
      };
      setTimeout(look, 0);
    });
  }

  // Expected z-depth of what a pixel of the canvas shows, or null where there is nothing (or no float pictures).
  depthAt(view, [x, y], unit) {
    if (!this.floats || !this.length) return null;
    const gl = this.gl, { width, height } = this.canvas, pixel = new Float32Array(4);
    const column = Math.min(width - 1, Math.max(0, Math.floor(x)));
    const line = Math.min(height - 1, Math.max(0, Math.floor(y)));
    gl.enable(gl.SCISSOR_TEST);
    gl.scissor(column, height - 1 - line, 1, 1);
    this.composite(view, width, height, 1 / unit);
    gl.disable(gl.SCISSOR_TEST);
    gl.readPixels(column, height - 1 - line, 1, 1, gl.RGBA, gl.FLOAT, pixel);
    return pixel[3] > 0.3 ? pixel[0] / pixel[3] * unit : null;
  }
}
