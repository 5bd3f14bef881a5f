// Mouse, touch and keyboard, turned into moves of the viewer.

const FLIGHT = { KeyW: [0, 0, 1], KeyS: [0, 0, -1], KeyA: [-1, 0, 0], KeyD: [1, 0, 0], KeyQ: [0, 1, 0], KeyE: [0, -1, 0] };
const WHEEL_UNITS = [1, 16, 400]; // pixels of a step in pixels, lines or pages
const SAME_SCROLL = 300;          // milliseconds within which wheel steps are one movement of the hand
const DOUBLE_CLICK = 350;

class Controls {
  constructor(canvas, viewer) {
    this.canvas = canvas;
    this.viewer = viewer;
    this.pointers = new Map();
    this.keys = new Set();
    this.tap = { time: -Infinity, at: [0, 0] };
    this.wheel = { time: -Infinity, at: [0, 0], point: null };
    this.scrolled = { time: -Infinity, inside: false };
    const events = { pointerdown: "down", pointermove: "move", pointerup: "up", pointercancel: "up", keydown: "press" };
    for (const [event, method] of Object.entries(events)) canvas.addEventListener(event, e => this[method](e));
    canvas.addEventListener("keyup", event => this.keys.delete(event.code));
    canvas.addEventListener("blur", () => this.keys.clear());
    canvas.addEventListener("contextmenu", event => event.preventDefault());
    window.addEventListener("wheel", event => this.scroll(event), { passive: false });
  }

  // Where an event is, in pixels of the canvas.
  at(event) {
    const box = this.canvas.getBoundingClientRect(), scale = this.canvas.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  down(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.at(event));
    this.panning = event.button === 2 || event.button === 1 || event.shiftKey;
    this.travelled = this.pointers.size > 1 ? Infinity : 0;
    if (event.button === 1) event.preventDefault();
    if (this.pointers.size === 2) this.pinch = this.viewer.surface(this.hand().middle);
  }

  // Middle and spread of the fingers.
  hand() {
    const [a, b] = [...this.pointers.values()];
    return { middle: mix(a, b, 0.5), spread: Math.max(1, norm(add(a, b, -1))) };
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const earlier = this.pointers.size === 2 ? this.hand() : null;
    const now = this.at(event), step = add(now, before, -1);
    this.pointers.set(event.pointerId, now);
    this.travelled += norm(step);
    if (earlier) {
      const hand = this.hand();
      this.viewer.pan(...add(hand.middle, earlier.middle, -1));
      this.viewer.walk(this.pinch, earlier.spread / hand.spread);
    } else if (this.panning) this.viewer.pan(...step);
    else if (this.pointers.size === 1) this.viewer.orbit(...step);
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId) || event.type === "pointercancel" || this.travelled > 8) return;
    const at = this.at(event), twice = event.timeStamp - this.tap.time < DOUBLE_CLICK && norm(add(at, this.tap.at, -1)) < 30;
    this.tap = { time: twice ? -Infinity : event.timeStamp, at };
    if (twice) this.viewer.setPivot(at);
  }

  // A scroll of the page that comes upon the canvas stays one of the page; one that begins on the canvas walks.
  scroll(event) {
    const goesOn = event.timeStamp - this.scrolled.time < SAME_SCROLL;
    const inside = goesOn ? this.scrolled.inside : event.target === this.canvas;
    this.scrolled = { time: event.timeStamp, inside };
    if (!inside || event.target !== this.canvas) return;
    event.preventDefault();
    const at = this.at(event), { wheel } = this;
    if (event.timeStamp - wheel.time > SAME_SCROLL || norm(add(at, wheel.at, -1)) > 8)
      this.wheel = { at, point: this.viewer.surface(at) };
    this.wheel.time = event.timeStamp;
    const pixels = event.deltaY * WHEEL_UNITS[event.deltaMode] * (event.ctrlKey ? 8 : 1); // ctrl: a pinch on a touchpad
    this.viewer.walk(this.wheel.point, Math.exp(0.0015 * Math.max(-400, Math.min(400, pixels))));
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const acts = { Space: "play", KeyR: "reset", KeyF: "full", KeyC: "cameras", ArrowLeft: "back", ArrowRight: "on" };
    if (FLIGHT[event.code]) {
      this.keys.add(event.code);
      this.fast = event.shiftKey;
      this.viewer.fly(() => this.flight());
    } else if (acts[event.code]) this.viewer.act(acts[event.code]);
    else return;
    event.preventDefault();
  }

  // Direction of the keys that are down, in the camera's axes; null when none is.
  flight() {
    if (!this.keys.size) return null;
    return [...this.keys].map(key => FLIGHT[key]).reduce((a, b) => add(a, b)).map(v => v * (this.fast ? 3 : 1));
  }
}
