// Two pictures of a case over each other with a divider, zoomed together.
const view = { entry: null, split: 0.5, zoom: 1, x: 0, y: 0 };
const LARGEST_ZOOM = 32;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const place = id => get(id).querySelector(".stack");

// x and y: where the picture's corner stands, in widths and heights of the stage.
function moveTo(x, y) {
  view.x = clamp(x, 1 - view.zoom, 0);
  view.y = clamp(y, 1 - view.zoom, 0);
  drawView();
}

function zoomAt(u, v, factor) {
  const zoom = clamp(view.zoom * factor, 1, LARGEST_ZOOM), ratio = zoom / view.zoom;
  view.zoom = zoom;
  moveTo(u - (u - view.x) * ratio, v - (v - view.y) * ratio);
}

function drawView() {
  const transform = `translate(${100 * view.x}%, ${100 * view.y}%) scale(${view.zoom})`;
  for (const id of ["under", "over"]) place(id).style.transform = transform;
  get("over").style.clipPath = `inset(0 ${100 * (1 - view.split)}% 0 0)`;
  get("divider").style.left = `${100 * view.split}%`;
  get("divider").setAttribute("aria-valuenow", Math.round(100 * view.split));
  get("stage").classList.toggle("zoomed", view.zoom > 1);
  get("zoom").textContent = `× ${view.zoom.toFixed(view.zoom < 10 && view.zoom % 1 ? 1 : 0)}`;
}

function moveDivider(split) {
  view.split = clamp(split, 0, 1);
  drawView();
}

function drawPair() {
  const { entry } = view, left = get("left").value, right = get("right").value;
  const path = row => pictureOf(entry, row);
  stack(place("over"), path(left));
  stack(place("under"), path(right), get("difference").checked ? path(left) : null);
  const region = get("region").value, head = element("tr", {}, element("th", { textContent: labels.regions[region] ?? region }),
    ...tables.metrics.map(metric => element("th", { scope: "col", textContent: metricTitle(metric) })));
  const lines = [left, right].filter(row => row !== "truth").map(row => element("tr", {}, element("th", { scope: "row", textContent: rowLabels[row] }),
    ...tables.metrics.map(metric => element("td", { textContent: format(entry.rows[row].scores[region]?.[metric.name], metric) }))));
  const failed = Object.entries(entry.rows).filter(([, result]) => result.error).map(([row, result]) =>
    element("tr", {}, element("th", { scope: "row", textContent: rowLabels[row], className: "bad" }),
      element("td", { colSpan: tables.metrics.length, textContent: `failed: ${result.error}`, className: "bad" })));
  get("pair").replaceChildren(head, ...lines, ...failed);
}

function fitStage() {
  if (!view.entry) return;
  const [width, height] = view.entry.size, largest = Math.max(200, innerHeight - 270);
  get("stage").style.aspectRatio = `${width} / ${height}`;
  get("stage").style.width = `min(100%, ${Math.round(largest * width / height)}px)`;
}

function showCase(entry, left = get("left").value, right = get("right").value) {
  view.entry = entry;
  get("which").textContent = `${caseName(entry)}${groupText(entry) ? " · " + groupText(entry) : ""}`;
  const entries = ["truth", ...tables.rows.map(row => row.name)].map(row =>
    [row, row === "truth" ? "truth" : rowLabels[row], pictureOf(entry, row) === null]);
  fill(get("left"), entries, left);
  fill(get("right"), entries, right);
  for (const select of [get("left"), get("right")]) {
    if (select.selectedOptions[0]?.disabled) select.value = entries.find(([, , disabled]) => !disabled)?.[0] ?? "truth";
  }
  Object.assign(view, { zoom: 1, x: 0, y: 0 });
  fitStage();
  drawPair();
  drawView();
}

function openCompare(entry, row) {
  const other = tables.rows.map(some => some.name).find(some => pictureOf(entry, some) !== null) ?? "truth";
  const left = row === "truth" ? other : row;
  view.split = 0.5;
  get("compare").showModal();
  showCase(entry, left, truthOf(entry) === null ? other : "truth");
  get("divider").focus();
}

function step(by) {
  const some = shownCases(), index = some.indexOf(view.entry) + by;
  if (index >= 0 && index < some.length) showCase(some[index]);
}

function swap() {
  const [left, right] = [get("left").value, get("right").value];
  get("left").value = right;
  get("right").value = left;
  drawPair();
}

const actions = {
  previous: () => step(-1), next: () => step(1), close: () => get("compare").close(), swap,
  in: () => zoomAt(0.5, 0.5, 2), out: () => zoomAt(0.5, 0.5, 0.5),
};
const keys = {
  n: actions.next, p: actions.previous, s: swap, "+": actions.in, "=": actions.in, "-": actions.out, "0": () => zoomAt(0, 0, 0),
  e: () => { get("difference").click(); },
};

function onKey(event) {
  if (event.target.tagName === "SELECT" || event.ctrlKey || event.metaKey || event.altKey) return;
  const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (by && event.shiftKey) moveTo(view.x - 0.1 * by[0], view.y - 0.1 * by[1]);
  else if (by && by[0]) moveDivider(view.split + 0.02 * by[0]);
  else if (keys[event.key]) keys[event.key]();
  else return;
  event.preventDefault();
}

// One pointer moves the divider, or the picture where that is zoomed and the divider not touched; two zoom.
function startPointers() {
  const held = new Map(), stage = get("stage");
  const at = event => {
    const box = stage.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  const spread = () => {
    const [[ax, ay], [bx, by]] = [...held.values()];
    return { distance: Math.hypot(ax - bx, ay - by), middle: [(ax + bx) / 2, (ay + by) / 2] };
  };
  let dividing = false;
  stage.addEventListener("pointerdown", event => {
    held.set(event.pointerId, at(event));
    stage.setPointerCapture(event.pointerId);
    dividing = held.size === 1 && (view.zoom === 1 || event.target === get("divider"));
    if (dividing) moveDivider(at(event)[0]);
  });
  stage.addEventListener("pointermove", event => {
    if (!held.has(event.pointerId)) return;
    const before = held.size === 2 ? spread() : null, [u, v] = held.get(event.pointerId), [x, y] = at(event);
    held.set(event.pointerId, [x, y]);
    if (before) zoomAt(...spread().middle, spread().distance / Math.max(before.distance, 1e-3));
    else if (dividing) moveDivider(x);
    else moveTo(view.x + x - u, view.y + y - v);
  });
  for (const kind of ["pointerup", "pointercancel"]) stage.addEventListener(kind, event => held.delete(event.pointerId));
  stage.addEventListener("wheel", event => {
    event.preventDefault();
    zoomAt(...at(event), 2 ** clamp(-event.deltaY / 200, -1, 1));
  }, { passive: false });
}

for (const id of ["left", "right", "difference"]) get(id).addEventListener("change", drawPair);
for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", actions[button.dataset.do]);
get("compare").addEventListener("keydown", onKey);
addEventListener("resize", fitStage);
startPointers();
