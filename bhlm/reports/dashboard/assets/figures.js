// Figures: traces and layouts from the page, drawn by Plotly in the colours of light and dark.

const SHARED = read("shared");
const CONFIG = {
  responsive: true,
  displaylogo: false,
  modeBarButtons: [["zoom2d", "pan2d", "resetScale2d"]],
};
const NARROW = 560; // pixels of a figure from which panels stand side by side
// On a narrow screen: characters of a tick's text and of every other.
const SHORT = 18;
const LONGER = 36;
// Pixels: of a letter and a line of texts, of a number on an axis, and beside the panels.
const LETTER = 7.5;
const LINE = 16;
const NUMBER = 52;
const SIDES = 100;
const APART = 6; // between two texts
const SMALLEST = 11; // of a title's letters
const SPACED = 1.3; // heights of a letter that a line takes
const PASSES = 3; // in which a figure finds the room of its texts
const drawn = new Map(); // element -> what it shows
const names = new WeakMap(); // trace -> its name in full

function read(id) {
  return JSON.parse(document.getElementById(`${id}-data`).textContent);
}

function colour(role, page) {
  return SHARED.roles[role][page];
}

function soften(ink) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(ink.slice(at, at + 2), 16));
  return `rgba(${red},${green},${blue},${SHARED.band})`;
}

function paintTrace(trace, page) {
  const role = trace.meta && trace.meta.role;
  if (!SHARED.roles[role]) return;
  const ink = colour(role, page);
  if (trace.marker) {
    if (!Array.isArray(trace.marker.color)) trace.marker.color = ink;
    if (trace.marker.line) trace.marker.line.color = ink;
  }
  if (trace.line) trace.line.color = ink;
  if (trace.fillcolor) trace.fillcolor = soften(ink);
}

function shorten(text, longest) {
  // Plotly's texts are escaped: one entity is one character.
  const letters = String(text).match(/&#?\w+;|<br>|[^]/gu) || [];
  return letters.length > longest ? letters.slice(0, longest - 1).join("") + "…" : text;
}

// A long name goes over two lines, the first of which ends behind punctuation: that nearest to the
// middle, and a bracket only where there is no other.
function wrap(text, longest) {
  const letters = String(text).match(/&#?\w+;|<br>|[^]/gu) || [];
  if (letters.length <= longest || letters.includes("<br>")) return shorten(text, longest);
  for (const mark of [/[\s|:,_]/, /\(/]) {
    const ends = letters.map((_, at) => at + 1).filter((end) => mark.test(letters[end - 1])
      && end <= longest && letters.length - end <= longest && end < letters.length);
    const best = ends.sort((one, two) =>
      Math.abs(one - letters.length / 2) - Math.abs(two - letters.length / 2))[0];
    if (best) return `${letters.slice(0, best).join("")}<br>${letters.slice(best).join("")}`;
  }
  let end = longest;
  while (end > longest / 3 && !/[\s(|:,_]/.test(letters[end - 1])) end--;
  if (end <= longest / 3) return shorten(text, longest);
  return `${letters.slice(0, end).join("")}<br>${shorten(letters.slice(end).join(""), longest)}`;
}

function nameTrace(trace, isNarrow) {
  if (!trace.name) return;
  if (!names.has(trace)) names.set(trace, trace.name);
  trace.name = isNarrow ? shorten(names.get(trace), LONGER) : names.get(trace);
}

function narrowAxis(axis, isAcross) {
  if (axis.title && axis.title.text) axis.title.text = shorten(axis.title.text, LONGER);
  if (!Array.isArray(axis.ticktext) || !Array.isArray(axis.tickvals)) return;
  const fit = isAcross ? shorten : wrap;
  axis.ticktext = axis.ticktext.map((text) => fit(text, SHORT));
}

// Texts of an axis that have no room beside each other are left out, at even steps; numbers stay
// level.
function fitTicks(axis, pixels, letters) {
  if (!Array.isArray(axis.ticktext) || !Array.isArray(axis.tickvals)) {
    if (axis.type === "category" || axis.tickvals) return;
    axis.tickangle = 0;
    axis.nticks = Math.max(2, Math.min(axis.nticks || 8, Math.floor(pixels / NUMBER)));
    if (axis.range && axis.type !== "log" && !axis.dtick) {
      axis.tick0 = 0;
      axis.dtick = chooseStep(...axis.range, axis.nticks);
    }
    return;
  }
  const places = axis.tickvals.map(Number);
  if (!places.length || !places.every(Number.isFinite)) return;
  const [low, high] = axis.range || [Math.min(...places), Math.max(...places)];
  const size = (text) => (axis.tickangle === -90 ? LINE : measure(text, letters) + APART);
  const at = (place) => (pixels * (place - low)) / (high - low || 1);
  const halves = axis.ticktext.map((text) => size(text) / 2);
  const isFree = (step) => {
    let end = -Infinity;
    return places.every((place, index) => {
      if (index % step) return true;
      const isApart = at(place) - halves[index] >= end;
      end = at(place) + halves[index];
      return isApart;
    });
  };
  let step = 1;
  while (step < places.length && !isFree(step)) step++;
  axis.ticktext = axis.ticktext.filter((_, index) => index % step === 0);
  axis.tickvals = axis.tickvals.filter((_, index) => index % step === 0);
}

// The step of 1, 2 or 5 for so many numbers at most, and for two of them in any case: one number
// says nothing of the scale.
function chooseStep(start, end, most) {
  const [low, high] = start < end ? [start, end] : [end, start];
  const power = 10 ** Math.floor(Math.log10((high - low) / most));
  const steps = [0.2, 0.5, 1, 2, 5, 10].map((digit) => digit * power);
  const count = (step) => Math.floor(high / step) - Math.ceil(low / step) + 1;
  const few = steps.findIndex((step) => step >= (high - low) / most);
  return steps.slice(0, few + 1).reverse().find((step) => count(step) > 1) || steps[few];
}

// The pixels that a text of Plotly's takes, of the longest of its lines.
let pen = null;
function measure(text, letters) {
  pen ??= document.createElement("canvas").getContext("2d");
  pen.font = `${letters}px ${SHARED.themes.light.font.family}`;
  const lines = String(text).replace(/&#?\w+;/g, "x").split("<br>");
  return Math.max(...lines.map((line) => pen.measureText(line).width));
}

// Fits texts to the pixels that each panel has.
function fitPanels(layout, pixels) {
  for (const [name, axis] of Object.entries(layout)) {
    if (!/^xaxis/.test(name)) continue;
    const [start, end] = axis.domain || [0, 1];
    const own = Math.max(pixels - SIDES, 100) * (end - start);
    fitTicks(axis, own, layout.font.size);
    // A label that is longer than its panel runs into the next one's.
    if (axis.title && axis.title.text) {
      axis.title.text = wrap(axis.title.text, Math.floor((own + 40) / LETTER));
    }
  }
}

// What the texts of a figure need is known once it stands: titles as wide as their panels are apart,
// two numbers on each axis, names beside an axis and the legend with room. Returns the layout that
// has it, null where nothing is wanting.
function settle(element, layout) {
  const full = element._fullLayout;
  const next = structuredClone(layout);
  const found = [
    settleTitles(next, full, element.clientWidth),
    settleNumbers(next, full, element.clientWidth),
    settleNames(next, full),
    settleLegend(next, full, element),
  ];
  return found.some(Boolean) ? next : null;
}

function settleTitles(next, full, width) {
  const titles = (next.annotations || []).filter(
    (note) => note.xref === "paper" && note.xanchor === "center");
  const middle = (note) => full._size.l + note.x * full._size.w;
  let isOther = false;
  for (const note of titles) {
    if (String(note.text).includes("<br>")) continue; // wrapped before
    const near = titles.filter((one) => one !== note && Math.abs(one.y - note.y) < 1e-6);
    const gaps = near.map((one) => Math.abs(middle(one) - middle(note)) - 2 * APART);
    const room = Math.min(...gaps, 2 * middle(note), 2 * (width - middle(note)));
    const own = (note.font && note.font.size) || full.font.size;
    let letters = own;
    while (letters > SMALLEST && measure(note.text, letters) > room) letters--;
    const needed = measure(note.text, letters);
    if (letters === own && needed <= room) continue;
    note.font = { ...note.font, size: letters };
    if (needed > room) {
      const count = String(note.text).replace(/&#?\w+;/g, "x").length;
      note.text = wrap(note.text, Math.max(Math.floor((count * room) / needed), 8));
    }
    isOther = true;
  }
  return isOther;
}

function settleNumbers(next, full, width) {
  let isOther = false;
  for (const [name, axis] of Object.entries(full)) {
    if (!/^xaxis/.test(name) || axis.type !== "linear" || !axis._length || !axis.tickfont) continue;
    if (!next[name] || next[name].tickvals || typeof axis.dtick !== "number") continue;
    const step = findNumbers(axis, findRoom(axis, full, width));
    if (step) Object.assign(next[name], step);
    isOther = isOther || step !== null;
  }
  return isOther;
}

// The pixels between which the numbers of an axis may stand: half the way to the panels beside it.
function findRoom(axis, full, width) {
  const row = (one) => String((full[`yaxis${one.anchor.slice(1)}`] || {}).domain);
  const beside = Object.entries(full).filter(([name, one]) =>
    /^xaxis/.test(name) && one !== axis && one._length && row(one) === row(axis)).map(([, one]) => one);
  const [start, end] = [axis._offset, axis._offset + axis._length];
  const before = beside.map((one) => one._offset + one._length).filter((place) => place <= start + 1);
  const after = beside.map((one) => one._offset).filter((place) => place >= end - 1);
  return {
    low: before.length ? (Math.max(...before) + start) / 2 - APART : 0,
    high: after.length ? (Math.min(...after) + end) / 2 + APART : width,
    width,
  };
}

// The ticks of an axis of which two numbers at least are seen, none over another or below the panel
// beside; null where these are the ones that it has.
function findNumbers(axis, room) {
  const [low, high] = [...axis.range].sort((one, two) => one - two);
  const at = (value) => axis._offset
    + (axis._length * (value - axis.range[0])) / (axis.range[1] - axis.range[0]);
  const plain = (value) => Number(value.toPrecision(10));
  const write = (value) => String(value).replace("-", "\u2212");
  const list = (step, start = 0) => {
    const first = Math.ceil((low - start) / step - 1e-9);
    const count = Math.floor((high - start) / step + 1e-9) - first + 1;
    return Array.from({ length: Math.min(count, 1000) }, (_, index) => plain(start + (first + index) * step));
  };
  const box = (value) => {
    const half = measure(write(value), axis.tickfont.size) / 2;
    return [at(value) - half, at(value) + half];
  };
  const isSeen = ([start, end]) => start >= 0 && end <= room.width; // others Plotly leaves out
  const isInside = ([start, end]) => start >= room.low && end <= room.high;
  const isClear = (values) => {
    const boxes = values.map(box).filter(isSeen).sort((one, two) => one[0] - two[0]);
    return boxes.length > 1 && boxes.every(isInside)
      && boxes.slice(1).every(([start], index) => start > boxes[index][1] + APART);
  };
  if (isClear(list(axis.dtick, axis.tick0))) return null;
  const power = 10 ** Math.floor(Math.log10(high - low));
  const plainSteps = [5, 2, 1, 0.5, 0.2, 0.1];
  for (const digits of [plainSteps, [4, 2.5, 0.4, 0.25]]) {
    const digit = digits.find((one) => isClear(list(one * power)));
    if (digit) return { tick0: 0, dtick: plain(digit * power) };
  }
  // No even step has room: the outer two of round numbers.
  for (const digit of plainSteps) {
    const seen = list(digit * power).filter((value) => isInside(box(value)));
    const ends = [seen[0], seen[seen.length - 1]];
    if (seen.length > 1 && isClear(ends)) return { tickvals: ends, ticktext: ends.map(write) };
  }
  return null;
}

// Names of two lines beside an axis make the figure higher where they would touch.
function settleNames(next, full) {
  let share = 1;
  for (const [name, axis] of Object.entries(full)) {
    const own = next[name];
    if (!/^yaxis/.test(name) || !axis._length || !axis.tickfont) continue;
    if (!own || !own.ticktext || own.ticktext.length < 2) continue;
    const places = own.tickvals.map(Number).sort((one, two) => one - two);
    const apart = Math.min(...places.slice(1).map((place, index) => place - places[index]));
    const pitch = (axis._length * apart) / Math.abs(axis.range[1] - axis.range[0]);
    const lines = Math.max(...own.ticktext.map((text) => String(text).split("<br>").length));
    share = Math.max(share, (lines * SPACED * axis.tickfont.size + 2) / pitch);
  }
  if (share <= 1 || !Number.isFinite(share)) return false;
  const more = (share - 1) * full._size.h;
  next.height = full.height + more;
  if (next.legend && next.legend.y) next.legend.y *= full._size.h / (full._size.h + more);
  return true;
}

// The legend stands below what belongs to the axes.
function settleLegend(next, full, element) {
  const legend = element.querySelector(".legend");
  if (!legend || !full.legend || full.legend.y >= 0) return false;
  const texts = element.querySelectorAll("[class$=xtitle], [class^=x][class$=tick] text");
  const bottom = Math.max(...[...texts].map((text) => text.getBoundingClientRect().bottom));
  const missing = bottom + 1.5 * APART - legend.getBoundingClientRect().top;
  if (!(missing > 1)) return false;
  const height = (next.height || full.height) - full.height + full._size.h;
  const start = next.legend && next.legend.y ? next.legend.y : full.legend.y;
  next.legend = { ...full.template.layout?.legend, ...next.legend, y: start - missing / height };
  next.height = (next.height || full.height) + missing;
  return true;
}

function arrange(layout, page, isNarrow, pixels) {
  const theme = structuredClone(SHARED.themes[page]);
  const found = structuredClone(layout);
  found.template = theme.template;
  found.paper_bgcolor = theme.paper_bgcolor;
  found.plot_bgcolor = theme.plot_bgcolor;
  found.font = { ...theme.font, ...found.font, color: theme.font.color };
  for (const shape of found.shapes || []) {
    if (SHARED.roles[shape.name]) shape.line.color = colour(shape.name, page);
  }
  if (isNarrow) {
    for (const [name, axis] of Object.entries(found)) {
      if (/^[xy]axis/.test(name)) narrowAxis(axis, name[0] === "x");
    }
    found.font.size = 11;
  }
  fitPanels(found, pixels);
  return found;
}

// Draws `content` {data, layout, narrow, least} into an element, again when colours or width change.
function draw(element, content) {
  const page = currentPage();
  if (content.least) {
    element.style.minWidth = `${content.least}px`;
    const frame = element.parentElement;
    if (frame.scrollWidth > frame.clientWidth) {
      frame.tabIndex = 0;
      frame.setAttribute("role", "region");
      const own = frame.closest("figure").getAttribute("aria-label");
      frame.setAttribute("aria-label", `${own}, which scrolls sideways`);
    }
  }
  const isNarrow = element.clientWidth < NARROW;
  const layout = arrange(isNarrow && content.narrow ? content.narrow : content.layout, page, isNarrow, element.clientWidth);
  for (const trace of content.data) {
    paintTrace(trace, page);
    nameTrace(trace, isNarrow);
  }
  layout.autosize = true;
  delete layout.width;
  if (isPrinting()) layout.width = element.clientWidth;
  if (layout.height) element.style.height = `${layout.height}px`;
  drawn.set(element, { content, page, isNarrow, pixels: element.clientWidth, printed: isPrinting() });
  let shown = Plotly.react(element, content.data, layout, CONFIG);
  // What is moved may leave others less room, once or twice.
  for (let times = 0, last = layout; times < PASSES; times++) {
    const settled = settle(element, last);
    if (!settled) break;
    if (settled.height) element.style.height = `${settled.height}px`;
    shown = Plotly.react(element, content.data, settled, CONFIG);
    last = settled;
  }
  if (!content.isChoice) watchGroups(element);
  return shown;
}

function drawFigure(element) {
  if (!drawn.has(element) && element.clientWidth) draw(element, read(element.dataset.figure));
}

function redrawAll() {
  for (const [element, state] of drawn) {
    const isNarrow = element.clientWidth < NARROW;
    if (!element.clientWidth) continue;
    const isOther = state.page !== currentPage() || state.isNarrow !== isNarrow
      || Math.abs(state.pixels - element.clientWidth) > LINE;
    if (isOther || state.printed !== isPrinting()) draw(element, state.content);
  }
}
