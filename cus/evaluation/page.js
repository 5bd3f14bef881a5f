// What the other scripts of the page share: its data, and small helpers.
const get = id => document.getElementById(id);
const { tables, cases, labels } = JSON.parse(get("data").textContent);
const pictures = JSON.parse(get("pictures").textContent);
const rowLabels = Object.fromEntries(tables.rows.map(row => [row.name, row.label]));
const regions = [...new Set(tables.tables.map(table => table.region))];

// Numbers that JSON has no word for come as "NaN", "Infinity" and "-Infinity".
const number = value => value === null || value === undefined ? NaN : Number(value);

function format(value, metric, signed = false) {
  const x = number(value);
  if (Number.isNaN(x)) return "–";
  const text = Number.isFinite(x) ? Math.abs(x).toFixed(metric.decimals) : "∞";
  return (x < 0 ? "−" : signed ? "+" : "") + text;
}

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function fill(select, entries, keep = select.value) {
  select.replaceChildren(...entries.map(([value, text, disabled]) => element("option", { value, textContent: text, disabled: !!disabled })));
  if (entries.some(([value, , disabled]) => value === keep && !disabled)) select.value = keep;
}

const arrow = metric => metric.higher_is_better ? "↑" : "↓";
const metricTitle = metric => `${metric.label} ${arrow(metric)}` + (metric.unit ? ` (${metric.unit})` : "");

// A picture, and with `over` the heat map of its difference from another; canvases could not read files beside the page.
function stack(place, path, over = null) {
  place.classList.toggle("heat", over !== null);
  place.replaceChildren(...[path, over].filter(some => some !== null).map(some =>
    element("img", { src: pictures[some], alt: "", decoding: "async", draggable: false })));
}

const caseName = entry => `${entry.scene} / ${entry.case}`;
const valueLabel = (key, value) => labels.values[value] ?? (/^[\d.]+$/.test(value) ? `${key} ${value}` : value);
const truthOf = entry => entry.truth in pictures ? entry.truth : null;
const pictureOf = (entry, row) => {
  const path = row === "truth" ? entry.truth : entry.rows[row]?.picture;
  return path !== null && path !== undefined && path in pictures ? path : null;
};
