// The viewer in the report: holds the view, draws when something has changed, and moves it along paths.

const TRAVEL_SECONDS = 0.6;
const SLOW = 40, QUICK = 20;     // milliseconds a frame above and below which moving pictures become coarser or finer
const COARSEST = 0.25;           // of the sides
const PATH_FRUSTA = 6;           // as many cameras of the path are drawn, evenly spread: more hide each other
const PHOTO_COLOR = [1, 0.62, 0.2], PATH_COLOR = [0.45, 0.7, 1];

function decoded(id) {
  const text = atob(document.getElementById(id).textContent), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new Uint32Array(bytes.buffer);
}

function positionsOf(rows, count) {
  const numbers = new Float32Array(rows.buffer), positions = new Float32Array(3 * count);
  for (let i = 0; i < count; i++) positions.set(numbers.subarray(8 * i, 8 * i + 3), 3 * i);
  return positions;
}

// Line segments as (point, colour) pairs: a pyramid for each camera, and the way of the path.
function cameraLines(scene, depth) {
  const values = [];
  const line = (a, b, color) => values.push(...a, ...color, ...b, ...color);
  const step = Math.max(1, (scene.path.length - 1) / (PATH_FRUSTA - 1)), picked = [];
  for (let at = 0; at < scene.path.length - 0.5; at += step) picked.push(scene.path[Math.round(at)]);
  for (const [views, color] of [[scene.photos, PHOTO_COLOR], [picked, PATH_COLOR]])
    for (const view of views) {
      const [w, h] = view.size;
      const corners = [[0, 0], [w, 0], [w, h], [0, h]].map(corner => worldPoint(view, corner, depth, w, h));
      corners.forEach((corner, i) => { line(view.position, corner, color); line(corner, corners[(i + 1) % 4], color); });
    }
  scene.path.slice(1).forEach((view, i) => line(scene.path[i].position, view.position, PATH_COLOR));
  return values;
}

class Viewer {
  constructor(root, scene) {
    this.root = root;
    this.scene = scene;
    this.canvas = root.querySelector("canvas");
    this.slider = root.querySelector("input[type=range]");
    this.view = scene.path[0];
    this.pivot = null; // found when it is needed
    this.motion = null;
    this.detail = 1;
    this.interval = 0;
    this.changed = -Infinity;
    this.place = this.nameOf(this.view);
    root.addEventListener("click", event => this.clicked(event.target));
    root.addEventListener("change", event => event.target.dataset.do && this.request());
    this.slider.addEventListener("input", () => this.show(scene.path[+this.slider.value]));
    document.addEventListener("fullscreenchange", () => document.fullscreenElement || this.fill(false));
    window.addEventListener("keydown", event => event.key === "Escape" && root.matches(".full") && this.toggleFull());
    new IntersectionObserver(entries => this.seen(entries.at(-1).isIntersecting)).observe(this.canvas);
  }

  // Nothing is decoded or drawn before the canvas comes into view, nor while it is out of view.
  seen(visible) {
    this.visible = visible;
    if (visible && !this.renderer && this.root.dataset.state === "waiting") this.start();
    this.last = performance.now();
    if (visible) this.request();
  }

  start() {
    const { scene, root } = this;
    try {
      Object.assign(scene, { rows: decoded("viewer-rows"), harmonics: decoded("viewer-harmonics") });
      this.renderer = new Renderer(this.canvas, scene, scene.shaders);
    } catch (error) {
      this.fail(error);
      return;
    }
    const positions = positionsOf(scene.rows, scene.count);
    this.reach = this.typicalDepth(positions);
    this.down = row(scene.path[0].rotation, 1);
    this.renderer.setLines(cameraLines(scene, 0.15 * this.reach));
    this.sorter = new Sorter(positions, scene.near, (order, asked) => this.sorted(order, asked));
    this.controls = new Controls(this.canvas, this);
    this.canvas.addEventListener("webglcontextlost", event => event.preventDefault());
    this.canvas.addEventListener("webglcontextrestored", () => this.restore());
    new ResizeObserver(() => this.resize()).observe(this.canvas);
    this.resize();
  }

  fail(error) {
    this.root.dataset.state = "failed";
    this.root.querySelector(".message").textContent =
      `No interactive view: ${error.message}. Below is the last render of the path; splat.ply opens in cus-view and in other viewers.`;
  }

  // The graphics driver may drop everything, after a sleep for example.
  restore() {
    this.renderer = new Renderer(this.canvas, this.scene, this.scene.shaders);
    this.renderer.setLines(cameraLines(this.scene, 0.15 * this.reach));
    this.order = null;
    this.request();
  }

  typicalDepth(positions) {
    const depths = [];
    for (let i = 0; i < this.scene.count; i += Math.ceil(this.scene.count / 2000))
      depths.push(depthOf(this.view, [...positions.subarray(3 * i, 3 * i + 3)]));
    const ahead = depths.filter(depth => depth > this.scene.near).sort((a, b) => a - b);
    return ahead.length ? ahead[ahead.length >> 1] : 1;
  }

  resize() {
    const scale = Math.min(2, window.devicePixelRatio || 1), box = this.canvas.getBoundingClientRect();
    const [width, height] = [box.width, box.height].map(side => Math.max(1, Math.round(side * scale)));
    if (this.canvas.width === width && this.canvas.height === height && this.order) return;
    Object.assign(this.canvas, { width, height });
    this.request();
  }

  // One frame, soon, and not before the one that is being drawn is done; there is no loop while nothing changes.
  request() {
    if (!this.visible || !this.renderer) return;
    this.root.dataset.state = "moving";
    this.wanted = true;
    if (this.scheduled || this.drawing) return;
    this.scheduled = true;
    requestAnimationFrame(now => this.frame(now));
  }

  sorted(order, asked) {
    this.renderer.setOrder(order);
    this.order = asked;
    this.request();
  }

  frame(now) {
    this.scheduled = this.wanted = false;
    const passed = now - this.last;
    this.last = now;
    if (this.motion && !this.motion(Math.min(0.1, Math.max(0, passed) / 1000))) this.motion = null;
    const { view, order } = this, axis = row(view.rotation, 2);
    const fits = wish => wish && [...axis, ...view.position].every((v, i) => v === [...wish.axis, ...wish.position][i]);
    if (!fits(this.asked) || !order) this.sorter.sort(axis, view.position);
    this.asked = { axis, position: view.position };
    const moving = this.motion !== null || now - this.changed < 120;
    this.interval = moving && passed < 1000 ? 0.8 * (this.interval || passed) + 0.2 * passed : 0;
    this.describe(moving);
    if (order) this.draw(moving, fits(order));
    if (this.motion) this.request();
    else if (moving) { clearTimeout(this.rest); this.rest = setTimeout(() => this.request(), 150); }
  }

  async draw(moving, sorted) {
    const started = performance.now();
    this.drawing = true;
    this.renderer.draw(this.view, moving ? this.detail : 1, this.root.querySelector("[data-do=cameras]").checked);
    this.root.classList.add("live");
    await this.renderer.finished();
    this.drawing = false;
    if (moving) this.adapt(performance.now() - started);
    if (this.wanted) this.request();
    else if (!moving && sorted) this.root.dataset.state = "still";
  }

  // Slow machines get coarser pictures while something moves, and the full one as soon as it rests.
  adapt(cost) {
    if (cost > SLOW) this.detail = Math.max(COARSEST, this.detail * Math.max(0.5, Math.sqrt(SLOW / cost)));
    if (cost < QUICK) this.detail = Math.min(1, 1.1 * this.detail);
  }

  describe(moving) {
    const rate = moving && this.interval ? ` \u00b7 ${Math.round(1000 / this.interval)} frames/s` : "";
    this.root.querySelector(".status").textContent = `${this.scene.count.toLocaleString("en")} Gaussians${rate}`;
    this.root.querySelector("output").textContent = this.place || "free view";
    this.root.querySelector("[data-do=play]").textContent = this.playing && this.motion ? "Pause" : "Play";
  }

  // A new view by hand: whatever moved it on its own stops.
  moved(view) {
    this.motion = null;
    this.place = "";
    this.view = view;
    this.changed = performance.now();
    this.request();
  }

  show(view) {
    this.moved(view);
    this.arrive(view);
  }

  arrive(view) {
    this.view = view;
    this.pivot = null;
    this.place = this.nameOf(view);
    const frame = this.scene.path.indexOf(view);
    if (frame >= 0) this.slider.value = frame;
  }

  nameOf(view) {
    const frame = this.scene.path.indexOf(view);
    return frame >= 0 ? `frame ${frame + 1} of ${this.scene.path.length}` : view.name;
  }

  begin(motion, playing = false) {
    this.motion = motion;
    this.playing = playing;
    this.last = performance.now();
    this.request();
  }

  travel(view) {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) { this.show(view); return; }
    const from = this.view;
    let share = 0;
    this.place = this.nameOf(view);
    this.begin(seconds => {
      share = Math.min(1, share + seconds / TRAVEL_SECONDS);
      this.view = between(from, view, share * share * (3 - 2 * share));
      if (share === 1) this.arrive(view);
      return share < 1;
    });
  }

  play() {
    const { path, fps } = this.scene, last = path.length - 1;
    let at = +this.slider.value >= last ? 0 : +this.slider.value;
    this.begin(seconds => {
      at = Math.min(last, at + seconds * fps);
      const frame = Math.min(Math.floor(at), Math.max(0, last - 1));
      if (last > 0) this.view = between(path[frame], path[frame + 1], at - frame);
      this.pivot = null;
      this.slider.value = Math.round(at);
      this.place = this.nameOf(path[Math.round(at)]);
      if (at === last) this.arrive(path[last]);
      return at < last;
    }, true);
  }

  clicked(target) {
    const button = target.closest("button");
    if (!button) return;
    if (button.dataset.photo) this.travel(this.scene.photos[+button.dataset.photo]);
    else this.act(button.dataset.do);
  }

  act(name) {
    const { path } = this.scene, step = { back: -1, on: 1 }[name];
    if (name === "play" && this.playing && this.motion) { this.motion = null; this.request(); }
    else if (name === "play") this.play();
    else if (name === "reset") this.travel(path[0]);
    else if (name === "full") this.toggleFull();
    else if (name === "cameras") this.root.querySelector("[data-do=cameras]").click();
    else if (step) this.show(path[Math.min(path.length - 1, Math.max(0, +this.slider.value + step))]);
  }

  // The whole screen where the browser gives it, else the whole window (phones).
  toggleFull() {
    const full = !this.root.classList.contains("full");
    this.fill(full);
    if (full) this.root.requestFullscreen?.().catch(() => {});
    else if (document.fullscreenElement) document.exitFullscreen();
  }

  fill(full) {
    this.root.classList.toggle("full", full);
    this.root.querySelector("[data-do=full]").textContent = full ? "Leave full screen" : "Full screen";
  }

  // The world point that a pixel of the canvas shows; at the pivot's depth where it shows nothing.
  surface(pixel) {
    const { width, height } = this.canvas;
    const depth = this.renderer.depthAt(this.view, pixel, this.reach);
    return worldPoint(this.view, pixel, depth ?? this.pivotDepth(), width, height);
  }

  pivotDepth() {
    const depth = this.pivot ? depthOf(this.view, this.pivot) : 0;
    return depth > 2 * this.scene.near ? depth : this.reach;
  }

  lookAt() {
    this.pivot ??= this.surface([this.canvas.width / 2, this.canvas.height / 2]);
    return this.pivot;
  }

  setPivot(pixel) {
    this.pivot = this.surface(pixel);
    const ring = this.root.querySelector(".ring"), scale = this.canvas.clientWidth / this.canvas.width;
    Object.assign(ring.style, { left: `${pixel[0] * scale}px`, top: `${pixel[1] * scale}px` });
    ring.getAnimations().forEach(animation => { animation.cancel(); animation.play(); });
    ring.animate([{ opacity: 1, scale: 0.4 }, { opacity: 0, scale: 1.4 }], 700);
  }

  focal() { return fitted(this.view, this.canvas.width, this.canvas.height).focal[0]; }

  orbit(dx, dy) {
    const pivot = this.lookAt(), rate = 1.5 / this.focal();
    const tilt = Math.asin(Math.max(-1, Math.min(1, dot(row(this.view.rotation, 2), this.down))));
    const limit = Math.max(1.4, Math.abs(tilt)), turn = Math.max(-limit, Math.min(limit, tilt + rate * dy)) - tilt;
    const view = orbited(this.view, pivot, this.down, rate * dx);
    this.moved(orbited(view, pivot, row(view.rotation, 0), -turn));
  }

  pan(dx, dy) {
    const pivot = this.lookAt(), metres = this.pivotDepth() / this.focal(), { rotation, position } = this.view;
    const shift = add(row(rotation, 0).map(v => -v * dx * metres), row(rotation, 1), -dy * metres);
    this.pivot = add(pivot, shift);
    this.moved({ ...this.view, position: add(position, shift) });
  }

  // Towards a point, or away: what is left of the way is `left` of what it was.
  walk(point, left) {
    const way = add(point, this.view.position, -1), least = 3 * this.scene.near;
    if (left < 1 && norm(way) * left < least) return;
    this.pivot = point;
    this.moved({ ...this.view, position: add(point, way, -left) });
  }

  // Moves while `direction()` gives one.
  fly(direction) {
    if (this.flying && this.motion) return;
    this.moved(this.view);
    this.flying = true;
    this.begin(seconds => {
      const toward = direction();
      if (!toward) { this.flying = false; this.pivot = null; return false; }
      const { rotation, position, size, focal } = this.view;
      const step = 0.5 * this.reach * seconds * Math.min(1, size[0] / focal[0]);
      const shift = [0, 1, 2].map(i => step * dot([rotation[i], rotation[3 + i], rotation[6 + i]], toward));
      this.view = { ...this.view, position: add(position, shift) };
      return true;
    });
  }
}

const viewerRoot = document.getElementById("viewer");
new Viewer(viewerRoot, JSON.parse(document.getElementById("viewer-scene").textContent));
