// The table of scores: one region and scope at a time, columns by group and metric, rows in any column's order.
let sorting = { key: null, descending: true };

function currentTable() {
  const scene = get("scope").value || null;
  return tables.tables.find(table => table.region === get("region").value && table.scene === scene);
}

function toggleSorting(key, metric) {
  const bestFirst = metric.higher_is_better;
  if (sorting.key !== key) sorting = { key, descending: bestFirst };
  else if (sorting.descending === bestFirst) sorting = { key, descending: !bestFirst };
  else sorting = { key: null, descending: true };
  drawTable();
  document.querySelector(`#scores button[data-key="${key}"]`).focus();
}

const shownPart = cell => get("numbers").value === "differences" ? cell.difference : cell.estimate;

function sortedRows(table) {
  const [group, metric] = (sorting.key ?? "").split(":").map(Number);
  // A scene may have fewer groups than the table that was sorted.
  if (sorting.key === null || group >= table.groups.length) return tables.rows;
  const value = row => number(shownPart(table.groups[group].cells[row.name][tables.metrics[metric].name])?.mean);
  const sign = sorting.descending ? -1 : 1;
  return [...tables.rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
    return x === y ? 0 : sign * (x < y ? -1 : 1);
  });
}

function axisHeaders(table) {
  return tables.axes.map((axis, depth) => {
    const line = element("tr", {}, element("th"));
    const prefix = group => tables.axes.slice(0, depth + 1).map(name => group.values[name]).join("\n");
    let last = null;
    for (const group of table.groups) {
      const width = tables.metrics.length + 1;
      if (last && last.prefix === prefix(group)) { last.cell.colSpan += width; continue; }
      const cell = element("th", { scope: "colgroup", colSpan: width, textContent: valueLabel(axis, group.values[axis]) });
      last = { prefix: prefix(group), cell };
      line.append(cell);
    }
    return line;
  });
}

function metricHeaders(table) {
  const line = element("tr", {}, element("th", { scope: "col", textContent: "Method" }));
  table.groups.forEach((group, g) => {
    tables.metrics.forEach((metric, m) => {
      const key = `${g}:${m}`;
      const button = element("button", { textContent: metricTitle(metric), "data-key": key, title: "sort" });
      button.addEventListener("click", () => toggleSorting(key, metric));
      const order = sorting.key === key ? (sorting.descending ? "descending" : "ascending") : "none";
      line.append(element("th", { scope: "col", "aria-sort": order, className: m === 0 ? "first" : "" }, button));
    });
    line.append(element("th", { scope: "col", textContent: "cases" }));
  });
  return line;
}

function scoreCell(cell, metric, group, first) {
  const mode = get("numbers").value, part = shownPart(cell), signed = mode === "differences";
  const made = element("td", { className: first ? "first" : "" });
  if (!part) { made.textContent = "–"; return made; }
  const rank = signed ? "" : ["", "best", "second"][cell.rank];
  made.append(element("span", { className: rank, textContent: format(part.mean, metric, signed) }));
  if (mode !== "means" && part.interval) {
    const [low, high] = part.interval.map(bound => format(bound, metric, signed));
    made.append(element("small", { textContent: `[${low}, ${high}]` }));
  }
  if (part.cases !== group.compared) made.append(element("small", { textContent: `n = ${part.cases}` }));
  if (cell.own) made.title = `over all ${cell.own.cases} cases that this row has: ${format(cell.own.mean, metric)}`;
  return made;
}

function drawTable() {
  const table = currentTable();
  const body = sortedRows(table).map(row => {
    const line = element("tr", {}, element("th", { scope: "row", textContent: row.label + (row.name === tables.baseline ? " (baseline)" : "") }));
    for (const group of table.groups) {
      tables.metrics.forEach((metric, m) => line.append(scoreCell(group.cells[row.name][metric.name], metric, group, m === 0)));
      const count = group.counts[row.name];
      line.append(element("td", { textContent: count.text, className: count.failed ? "bad" : "" }));
    }
    return line;
  });
  get("scores").replaceChildren(element("thead", {}, ...axisHeaders(table), metricHeaders(table)), element("tbody", {}, ...body));
  const parts = table.groups.filter(group => group.compared < group.planned).map(group =>
    `${group.label ? group.label + ": means" : "Means"} over the ${group.compared} of ${group.planned} cases that every row with scores has.`);
  get("coverage").textContent = parts.join(" ");
}

function startTable() {
  fill(get("region"), regions.map(region => [region, labels.regions[region] ?? region]));
  const many = tables.scenes.length > 1;
  const all = many ? `${tables.scenes.length} scenes` : tables.scenes[0] ?? "no scene";
  fill(get("scope"), [["", all], ...(many ? tables.scenes.map(scene => [scene, scene]) : [])]);
  if (tables.baseline === null) get("numbers").lastElementChild.remove();
  for (const id of ["region", "scope", "numbers"]) get(id).addEventListener("change", drawTable);
  drawTable();
}
startTable();
