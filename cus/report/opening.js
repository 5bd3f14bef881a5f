// The plain crop and the close-up, magnified and moved together; beside each other, or over each other with a divider.
(() => {
  const opening = document.getElementById("opening"), windows = [...opening.querySelectorAll(".window")];
  const state = { zoom: 1, x: 0, y: 0, split: 0.5, over: false };
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const LARGEST = 8;

  function draw() {
    const transform = `translate(${100 * state.x}%, ${100 * state.y}%) scale(${state.zoom})`;
    windows.forEach(w => { w.firstElementChild.style.transform = transform; });
    opening.classList.toggle("magnified", state.zoom > 1);
    opening.classList.toggle("over", state.over);
    document.getElementById("times").textContent = `× ${state.zoom}`;
    const last = windows[windows.length - 1], bar = document.getElementById("opening-bar");
    last.style.clipPath = state.over ? `inset(0 0 0 ${100 * state.split}%)` : "";
    bar.style.left = `calc(${100 * state.split}% - 1px)`;
    bar.style.height = `${last.clientHeight}px`;
  }

  // x and y: where the picture's corner stands, in widths and heights of the window.
  function moveTo(x, y) {
    state.x = clamp(x, 1 - state.zoom, 0);
    state.y = clamp(y, 1 - state.zoom, 0);
    draw();
  }

  function zoomAt(u, v, zoom) {
    const ratio = zoom / state.zoom;
    state.zoom = zoom;
    moveTo(u - (u - state.x) * ratio, v - (v - state.y) * ratio);
  }

  const next = () => state.zoom >= LARGEST ? 1 : 2 * state.zoom;
  let start = null;
  for (const w of windows) {
    const at = event => {
      const box = w.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    w.addEventListener("pointerdown", event => {
      if (event.button) return;
      start = { at: at(event), x: state.x, y: state.y, moved: false };
      w.setPointerCapture(event.pointerId);
    });
    w.addEventListener("pointermove", event => {
      if (!start) return;
      const [u, v] = at(event), [u0, v0] = start.at;
      if (!start.moved && Math.hypot((u - u0) * w.clientWidth, (v - v0) * w.clientHeight) < 4) return;
      start.moved = true;
      if (state.over) { state.split = clamp(u, 0, 1); draw(); }
      else moveTo(start.x + u - u0, start.y + v - v0);
    });
    w.addEventListener("pointerup", event => {
      if (start && !start.moved) zoomAt(...at(event), next());
      start = null;
    });
    w.addEventListener("pointercancel", () => { start = null; });
    w.addEventListener("keydown", event => {
      const step = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[event.key];
      if (event.key === "Enter") zoomAt(0.5, 0.5, next());
      else if (step && state.over && step[0]) { state.split = clamp(state.split - step[0] / 2, 0, 1); draw(); }
      else if (step) moveTo(state.x + step[0], state.y + step[1]);
      else return;
      event.preventDefault();
    });
  }
  document.getElementById("overlay")?.addEventListener("click", event => {
    state.over = !state.over;
    event.currentTarget.setAttribute("aria-pressed", state.over);
    event.currentTarget.textContent = state.over ? "Beside each other" : "Lay over each other";
    draw();
  });
  addEventListener("resize", draw);
  draw();
})();
