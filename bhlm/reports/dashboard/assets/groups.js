// One group chosen anywhere lights up everywhere: #school=2277 in the address.

const listeners = [];
const watched = new Set(); // figures with points of groups
let grouping = null; // name of the grouping column

function onGroup(action) {
  listeners.push(action);
}

function readHash() {
  const found = /^#([^=]+)=(.*)$/.exec(location.hash);
  if (!found) return null;
  try {
    return found.slice(1).map(decodeURIComponent);
  } catch {
    return null; // a broken escape in the address
  }
}

function askedGroup() {
  const found = readHash();
  return found && found[0] === groupingName() ? found[1] : null;
}

function groupingName() {
  if (grouping === null) {
    const chooser = document.querySelector("[data-chooser]");
    grouping = chooser ? read(chooser.dataset.chooser).group : "";
  }
  return grouping;
}

function chooseGroup(name, label) {
  const hash = `#${encodeURIComponent(name)}=${encodeURIComponent(label)}`;
  if (location.hash === hash) return;
  history.replaceState(null, "", hash);
  showGroup();
}

function showGroup() {
  const label = askedGroup();
  if (label === null) return;
  for (const action of listeners) action(label);
  for (const element of watched) ringGroup(element, label);
  for (const row of document.querySelectorAll("tr[data-group]")) {
    row.classList.toggle("lit", row.dataset.group === label);
  }
}

// The label of the group that a point is of: "school 2277" begins its hover text.
function groupOf(text) {
  const first = String(text || "").split("<br>")[0];
  const start = `${escapePlotly(groupingName())} `;
  return first.startsWith(start) ? first.slice(start.length).split(",")[0] : null;
}

function watchGroups(element) {
  if (!groupingName() || element.dataset.grouped) return;
  const has = element.data.some((trace) => trace.hovertext && groupOf(trace.hovertext[0]) !== null);
  element.dataset.grouped = has ? "yes" : "no";
  if (!has) return;
  watched.add(element);
  element.on("plotly_click", ({ points }) => {
    const label = groupOf(points[0] && points[0].hovertext);
    if (label !== null) chooseGroup(groupingName(), unescapePlotly(label));
  });
  const label = askedGroup();
  if (label !== null) ringGroup(element, label);
}

function unescapePlotly(text) {
  return text.replaceAll("&#36;", "$").replaceAll("&lt;", "<").replaceAll("&gt;", ">")
    .replaceAll("&amp;", "&");
}

// Rings about the points of a group, drawn as a trace of their own for each pair of axes.
function ringGroup(element, label) {
  const wanted = escapePlotly(label);
  const rings = new Map();
  for (const trace of element.data) {
    if (trace.name === RING || !trace.hovertext || !trace.mode || !trace.mode.includes("markers")) {
      continue;
    }
    trace.hovertext.forEach((text, at) => {
      if (groupOf(text) !== wanted) return;
      const key = `${trace.xaxis || "x"} ${trace.yaxis || "y"}`;
      const ring = rings.get(key) || { x: [], y: [], xaxis: trace.xaxis, yaxis: trace.yaxis };
      const [xs, ys] = [unpack(trace.x), unpack(trace.y)];
      ring.x.push(xs[at]);
      ring.y.push(ys[at]);
      rings.set(key, ring);
    });
  }
  const old = element.data.map((trace, at) => (trace.name === RING ? at : -1)).filter((at) => at >= 0);
  if (old.length) Plotly.deleteTraces(element, old);
  const traces = [...rings.values()].map((ring) => ({
    ...ring, type: "scatter", mode: "markers", name: RING, showlegend: false, hoverinfo: "skip",
    meta: { role: "warning" },
    marker: { symbol: "circle-open", size: 18, color: colour("warning", currentPage()),
      line: { width: 3, color: colour("warning", currentPage()) } },
  }));
  if (traces.length) Plotly.addTraces(element, traces);
}

const RING = "chosen";

function unpack(values) {
  if (Array.isArray(values) || ArrayBuffer.isView(values)) return values;
  const bytes = Uint8Array.from(atob(values.bdata), (letter) => letter.charCodeAt(0));
  const kinds = { f8: Float64Array, f4: Float32Array, i4: Int32Array, i2: Int16Array, i1: Int8Array,
    u1: Uint8Array, u2: Uint16Array, u4: Uint32Array };
  return new kinds[values.dtype](bytes.buffer);
}
