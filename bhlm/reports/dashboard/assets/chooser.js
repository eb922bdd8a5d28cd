// One group at a time: its rows and its lines; `describe_chooser` says what the content holds.

const LISTED = 200; // suggestions under the field at a time
const WIDTHS = { population: 2, ols: 2.5, eb: 5, posterior: 2 }; // pixels

function nameLine(line) {
  return line.key === "posterior" ? "Posterior mean" : line.name;
}

function pick(values, at) {
  return values.length === 1 ? values[0] : values[at];
}

function traceChoice(content, at) {
  const traces = [];
  const rows = content.rows && { x: content.rows.x[at], y: content.rows.y[at] };
  if (rows) {
    traces.push({
      type: "scatter", mode: "markers", name: "Rows", x: rows.x, y: rows.y, meta: { role: "data" },
      marker: { symbol: SHARED.looks.data.symbol, size: 7, line: { width: 1.5 } },
      hoverinfo: "x+y",
    });
  }
  const isSpread = rows && rows.x[0] < rows.x[rows.x.length - 1];
  const ends = isSpread ? [rows.x[0], rows.x[rows.x.length - 1]] : content.x.range;
  for (const line of content.lines) {
    const [start, slope] = [pick(line.at, at), pick(line.slope, at)];
    if (start === null || slope === null) continue;
    if (line.key === "posterior" && content.band) traces.push(...traceBand(content, at, ends, line.role));
    traces.push({
      type: "scatter", mode: "lines", name: nameLine(line), x: ends, meta: { role: line.role },
      y: ends.map((x) => start + slope * (x - content.x.origin)),
      line: { width: WIDTHS[line.key], dash: SHARED.looks[line.role].dash },
      hoverinfo: "x+y+name",
    });
  }
  return traces;
}

// The posterior's 95 % band between two ends, which lie between points of its grid.
function traceBand(content, at, ends, role) {
  const grid = content.band.x;
  const read = (values, x) => {
    const next = Math.min(Math.max(grid.findIndex((place) => place >= x), 1), grid.length - 1);
    const share = (x - grid[next - 1]) / (grid[next] - grid[next - 1]);
    return values[next - 1] + share * (values[next] - values[next - 1]);
  };
  const x = [ends[0], ...grid.filter((place) => place > ends[0] && place < ends[1]), ends[1]];
  const [low, high] = [content.band.low[at], content.band.high[at]].map((values) =>
    x.map((place) => read(values, place)));
  const shared = {
    type: "scatter", mode: "lines", x, meta: { role }, hoverinfo: "skip",
    line: { width: 0, shape: "spline" },
  };
  return [
    { ...shared, y: low, showlegend: false, name: "" },
    { ...shared, y: high, fill: "tonexty", fillcolor: "rgba(0,0,0,0)", name: "Posterior, 95 % band" },
  ];
}

function layoutChoice(content) {
  const axis = (side) => ({
    title: { text: escapePlotly(side.label), standoff: 8 }, range: side.range,
  });
  return {
    xaxis: axis(content.x), yaxis: axis(content.y), height: 340, showlegend: true,
    margin: { l: 10, r: 10, t: 20, b: 10 }, dragmode: false,
    legend: { ...SHARED.themes.light.legend, traceorder: "normal" }, hoverlabel: SHARED.themes.light.hoverlabel,
  };
}

function escapePlotly(text) {
  return text.replace(/[&<>]/g, (x) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[x])
    .replaceAll("$", "&#36;");
}

// "school 8367", but not "clinic clinic no. 7".
function nameUnit(group, label) {
  const isTold = label.length > group.length && label.toLowerCase().startsWith(group.toLowerCase())
    && !/[\p{L}\p{N}]/u.test(label[group.length]);
  return isTold ? label : `${group} ${label}`;
}

function tellChoice(content, at) {
  const round = (value, digits = 3) => showNumber(value, digits).replace(/^-/, "\u2212");
  const parts = content.lines
    .filter((line) => pick(line.at, at) !== null)
    .map((line) => {
      const slope = pick(line.slope, at);
      const tilt = slope ? `, slope ${round(slope)}` : "";
      return `${nameLine(line)} ${round(pick(line.at, at))}${tilt}`;
    });
  const reliable = Object.entries(content.reliability)
    .filter(([, values]) => pick(values, at) !== null)
    .map(([name, values]) => `${reveal(name)} ${pick(values, at).toFixed(3)}`);
  const where = content.x.kind === "column"
    ? ` at ${reveal(content.x.label)} = ${round(content.x.origin)}` : "";
  const rows = content.n[at] === 1 ? "1 row" : `${content.n[at]} rows`;
  const trust = reliable.length ? ` Reliability: ${reliable.join(", ")}.` : "";
  return `${nameUnit(reveal(content.group), reveal(content.groups[at]))}, ${rows}${where ? `;${where}` : ""}: ` +
    `${parts.join("; ")}.${trust}`;
}

function listChooser(content) {
  const column = (name, kind, values) => ({ name, kind, values });
  const every = (values) => content.groups.map((_, at) => pick(values, at));
  return [
    column(content.group, "text", content.groups),
    column("n", "number", content.n),
    ...content.lines.flatMap((line) => [
      column(`${line.key} at ${content.x.origin}`, "number", every(line.at)),
      column(`${line.key} slope`, "number", every(line.slope)),
    ]),
    ...(content.band ? content.band.x.flatMap((x, point) => ["low", "high"].map((end) =>
      column(`posterior ${end} at ${x}`, "number", content.band[end].map((values) => values[point]))))
      : []),
    ...Object.entries(content.reliability).map(([name, values]) =>
      column(`reliability ${name}`, "number", every(values))),
  ];
}

function drawChooser(root) {
  const place = root.querySelector(".chosen");
  if (drawn.has(place)) return;
  const content = read(root.dataset.chooser);
  const field = root.querySelector("input");
  const list = root.querySelector("datalist");
  const telling = root.querySelector(".telling");
  const labels = content.groups.map(reveal);
  let current = -1;

  function offer(text) {
    const wanted = text.toLowerCase();
    const found = labels.filter((label) => label.toLowerCase().includes(wanted)).slice(0, LISTED);
    list.replaceChildren(...found.map((label) => {
      const option = document.createElement("option");
      option.value = label;
      return option;
    }));
  }

  function show(at, isAsked = true) {
    current = at;
    field.value = labels[at];
    telling.textContent = tellChoice(content, at);
    root.querySelector('[data-step="-1"]').disabled = at === 0;
    root.querySelector('[data-step="1"]').disabled = at === labels.length - 1;
    draw(place, { data: traceChoice(content, at), layout: layoutChoice(content), isChoice: true });
    if (isAsked) chooseGroup(content.group, content.groups[at]);
  }

  function choose() {
    const wanted = field.value.trim().toLowerCase();
    const exact = labels.findIndex((label) => label.toLowerCase() === wanted);
    if (exact >= 0) {
      if (exact !== current) show(exact);
      return;
    }
    const near = labels.findIndex((label) => label.toLowerCase().includes(wanted));
    if (near >= 0) show(near);
    else telling.textContent = `No ${reveal(content.group)} is called '${reveal(field.value)}'.`;
  }

  field.addEventListener("focus", () => { field.select(); offer(""); });
  field.addEventListener("input", () => {
    offer(field.value);
    if (labels.includes(field.value)) choose();
  });
  field.addEventListener("change", choose);
  field.addEventListener("keydown", (event) => { if (event.key === "Enter") choose(); });
  for (const button of root.querySelectorAll("[data-step]")) {
    button.addEventListener("click", () => show(current + Number(button.dataset.step)));
  }
  onGroup((label) => {
    const at = content.groups.indexOf(label);
    if (at >= 0 && at !== current) show(at, false);
  });
  const asked = content.groups.indexOf(askedGroup());
  offer("");
  show(asked >= 0 ? asked : content.start, false);
  const small = root.querySelector("details.multiples");
  const unfold = () => {
    if (small.open) drawSmall(small.querySelector(".small"), content);
  };
  small.addEventListener("toggle", unfold);
  unfold();  // it may be open before the chooser comes into view
}

// Every group's lines in a small frame of its own; a click chooses the group.
function drawSmall(place, content) {
  if (place.firstChild) return;
  drawNext(place, content);
  place.addEventListener("click", (event) => {
    if (event.target.closest("[data-next]")) drawNext(place, content);
    const button = event.target.closest("[data-group]");
    if (button) chooseGroup(content.group, content.groups[Number(button.dataset.group)]);
  });
}

// The next frames: ten thousand at once would take a browser seconds and more memory than a page has.
const AT_ONCE = 500;

function drawNext(place, content) {
  const [width, height] = [104, 64];
  const along = (value) => width * (value - content.x.range[0])
    / (content.x.range[1] - content.x.range[0]);
  const up = (value) => height * (content.y.range[1] - value)
    / (content.y.range[1] - content.y.range[0]);
  const first = place.querySelectorAll("[data-group]").length;
  const parts = content.groups.slice(first, first + AT_ONCE).map((label, offset) => {
    const at = first + offset;
    const lines = content.lines.map((line) => {
      const [start, slope] = [pick(line.at, at), pick(line.slope, at)];
      if (start === null || slope === null) return "";
      const ends = content.x.range.map((x) => [along(x), up(start + slope * (x - content.x.origin))]);
      const points = ends.map((end) => end.map((value) => value.toFixed(1)).join(",")).join(" ");
      return `<polyline points="${points}" class="line ${line.role}"/>`;
    });
    return `<button type="button" data-group="${at}"><svg viewBox="0 0 ${width} ${height}" `
      + `aria-hidden="true">${lines.join("")}</svg>${escapeText(reveal(label))}</button>`;
  });
  const left = content.groups.length - first - parts.length;
  if (left > 0) {
    parts.push(`<button type="button" data-next>Show ${Math.min(left, AT_ONCE)} more, of `
      + `${content.groups.length.toLocaleString("en")}</button>`);
  }
  place.querySelector("[data-next]")?.remove();
  place.insertAdjacentHTML("beforeend", parts.join(""));
  for (const role of new Set(content.lines.map((line) => line.role))) {
    for (const line of place.querySelectorAll(`.${role}`)) {
      line.style.stroke = `var(--role-${role})`;
      line.style.strokeDasharray = SHARED.looks[role].dash === "solid" ? "" : "4 3";
    }
  }
}
