// Figures: traces and layouts from the page, drawn by Plotly in the colours of light and dark.

const SHARED = read("shared");
const CONFIG = {
  responsive: true,
  displaylogo: false,
  modeBarButtons: [["zoom2d", "pan2d", "resetScale2d"]],
};
const NARROW = 560; // pixels of a figure from which panels stand side by side
// On a narrow screen: characters of a tick's text and of every other, and ticks of an x axis.
const SHORT = 18;
const LONGER = 36;
const TITLE = 28; // of a line of a panel's title
const FEW_TICKS = 5;
// Pixels: of a letter and a line of texts, of a number on an axis, and beside the panels.
const LETTER = 7.5;
const TICK = 7; // of a letter beside an axis
const LINE = 16;
const NUMBER = 52;
const SIDES = 100;
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

// A long name goes over two lines, the first of which ends behind punctuation.
function wrap(text, longest) {
  const letters = String(text).match(/&#?\w+;|<br>|[^]/gu) || [];
  if (letters.length <= longest || letters.includes("<br>")) return shorten(text, longest);
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
  const step = isAcross ? Math.ceil(axis.ticktext.length / FEW_TICKS) : 1;
  const isKept = (_, at) => at % step === 0;
  const fit = isAcross ? shorten : wrap;
  axis.ticktext = axis.ticktext.filter(isKept).map((text) => fit(text, SHORT));
  axis.tickvals = axis.tickvals.filter(isKept);
}

// Texts of an axis that have no room beside the last one are left out; numbers stay level.
function fitTicks(axis, pixels) {
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
  const size = (text) => (axis.tickangle === -90 ? LINE : TICK * visibleLetters(text) + 6);
  const at = (place) => (pixels * (place - low)) / (high - low || 1);
  let end = -Infinity;
  const kept = places.map((place, index) => {
    const half = size(axis.ticktext[index]) / 2;
    if (at(place) - half < end) return false;
    end = at(place) + half;
    return true;
  });
  axis.ticktext = axis.ticktext.filter((_, index) => kept[index]);
  axis.tickvals = axis.tickvals.filter((_, index) => kept[index]);
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

function visibleLetters(text) {
  const lines = String(text).replace(/<[^>]*>/g, "").replace(/&#?\w+;/g, "x");
  return [...lines].length;
}

// Fits texts to the pixels that each panel has.
function fitPanels(layout, pixels) {
  let narrowest = pixels;
  for (const [name, axis] of Object.entries(layout)) {
    if (!/^xaxis/.test(name)) continue;
    const [start, end] = axis.domain || [0, 1];
    const own = Math.max(pixels - SIDES, 100) * (end - start);
    narrowest = Math.min(narrowest, own);
    fitTicks(axis, own);
    // A label that is longer than its panel runs into the next one's.
    if (axis.title && axis.title.text) {
      axis.title.text = wrap(axis.title.text, Math.floor((own + 40) / LETTER));
    }
  }
  for (const note of layout.annotations || []) {
    if (note.xref === "paper" && note.xanchor === "center") {
      const text = wrap(note.text, Math.max(Math.floor((narrowest + 20) / LETTER), 8));
      // Two lines stand where one did.
      if (text !== note.text && text.includes("<br>")) note.font = { ...note.font, size: 11 };
      note.text = text;
    }
  }
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
    for (const note of found.annotations || []) note.text = wrap(note.text, TITLE);
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
  const shown = Plotly.react(element, content.data, layout, CONFIG);
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
