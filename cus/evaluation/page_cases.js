// The cases: the truth and every row side by side with scores; built while near the window, so that many stay quick.
const filters = new Map();
const near = new IntersectionObserver(entries => entries.forEach(entry => {
  const article = entry.target;
  if (entry.isIntersecting && !article.built) build(article);
  else if (!entry.isIntersecting && article.built) {
    article.style.minHeight = `${article.offsetHeight}px`;
    article.lastElementChild.replaceChildren();
    article.built = false;
  }
}), { rootMargin: "800px" });

const shownRows = () => [...document.querySelectorAll("#rows input:checked")].map(box => box.value);
const groupText = entry => Object.entries(entry.group).map(([key, value]) => valueLabel(key, value)).join(" · ");

// The rows that score best in a case, by metric, as printed.
function bestRows(entry, rows) {
  return Object.fromEntries(tables.metrics.map(metric => {
    const values = rows.map(row => [row, number(entry.rows[row]?.scores[get("region").value]?.[metric.name])]).filter(([, x]) => !Number.isNaN(x));
    const best = values.length > 1 ? (metric.higher_is_better ? Math.max : Math.min)(...values.map(([, x]) => x)) : NaN;
    return [metric.name, new Set(values.filter(([, x]) => format(x, metric) === format(best, metric)).map(([row]) => row))];
  }));
}

function scoreList(entry, row, best) {
  const scores = entry.rows[row].scores[get("region").value] ?? {};
  return element("dl", {}, ...tables.metrics.filter(metric => metric.name in scores).map(metric =>
    element("div", {}, element("dt", { textContent: metric.label }),
      element("dd", { textContent: format(scores[metric.name], metric), className: best[metric.name].has(row) ? "best" : "" }))));
}

function figure(article, row, best) {
  const { entry } = article, [width, height] = entry.size;
  const label = row === "truth" ? "truth" : rowLabels[row], path = pictureOf(entry, row);
  const result = row === "truth" ? null : entry.rows[row];
  const caption = element("figcaption", {}, element("b", { textContent: label }));
  let frame;
  if (path === null) {
    const reason = result?.error ? `failed: ${result.error}` : "no picture";
    frame = element("div", { className: "frame failure", textContent: reason });
  } else {
    const place = element("span", { className: "stack" });
    frame = element("button", { className: "frame", "aria-label": `compare ${label}` }, place);
    const truth = truthOf(entry);
    stack(place, path, get("errors").checked && row !== "truth" ? truth : null);
    frame.addEventListener("click", () => openCompare(entry, row));
  }
  frame.style.aspectRatio = `${width} / ${height}`;
  if (result && !result.error) caption.append(scoreList(entry, row, best));
  return element("figure", { "data-row": row }, frame, caption);
}

function build(article) {
  const rows = shownRows().filter(row => row in article.entry.rows), best = bestRows(article.entry, rows);
  article.lastElementChild.replaceChildren(...["truth", ...rows].map(row => figure(article, row, best)));
  article.built = true;
}

// The same place in every picture of a case grows under the pointer.
function magnify(event) {
  const frame = event.target.closest("button.frame"), style = event.currentTarget.style;
  if (!frame || event.pointerType === "touch" || event.type === "pointerleave") { style.setProperty("--zoom", 1); return; }
  const box = frame.getBoundingClientRect();
  style.setProperty("--x", `${100 * (event.clientX - box.left) / box.width}%`);
  style.setProperty("--y", `${100 * (event.clientY - box.top) / box.height}%`);
  style.setProperty("--zoom", get("hover").value);
}

function articleOf(entry) {
  const heading = element("h3", { textContent: caseName(entry) + " " }, element("small", { textContent: groupText(entry) }));
  const article = element("article", { className: "case" }, heading, element("div", { className: "pictures" }));
  article.entry = entry;
  article.addEventListener("pointermove", magnify);
  article.addEventListener("pointerleave", magnify);
  return article;
}

const matches = entry => [...filters].every(([key, select]) =>
  select.value === "" || (key === "scene" ? entry.scene : entry.group[key]) === select.value);
const shownCases = () => articles.filter(article => !article.hidden).map(article => article.entry);

function filterCases() {
  articles.forEach(article => { article.hidden = !matches(article.entry); });
  get("shown").textContent = `${shownCases().length} of ${cases.length} cases.`;
}

function redraw() {
  articles.filter(article => article.built).forEach(build);
}

function setGain() {
  const gain = 1 / (3 * Number(get("gain-at").value)), line = `${gain} ${gain} ${gain} 0 0 `;
  get("gain").setAttribute("values", `${line.repeat(3)}0 0 0 0 1`);
  get("gain-end").textContent = `≥ ${get("gain-at").value}`;
}

function startFilters() {
  const keys = ["scene", ...new Set(cases.flatMap(entry => Object.keys(entry.group)))];
  for (const key of keys) {
    const values = [...new Set(cases.map(entry => key === "scene" ? entry.scene : entry.group[key]))].filter(value => value !== undefined);
    if (values.length < 2) continue;
    const select = element("select");
    fill(select, [["", "all"], ...values.map(value => [value, key === "scene" ? value : valueLabel(key, value)])]);
    select.addEventListener("change", filterCases);
    filters.set(key, select);
    get("filters").append(element("label", {}, `${key} `, select));
  }
  for (const row of tables.rows) {
    const box = element("input", { type: "checkbox", checked: true, value: row.name });
    box.addEventListener("change", redraw);
    get("rows").append(element("label", {}, box, ` ${row.label}`));
  }
}

const articles = cases.map(articleOf);
startFilters();
get("hover").value = matchMedia("(hover: hover)").matches ? "3" : "1";
get("errors").addEventListener("change", redraw);
get("region").addEventListener("change", redraw);
get("gain-at").addEventListener("change", setGain);
setGain();
get("cases").append(...articles);
articles.forEach(article => near.observe(article));
filterCases();
