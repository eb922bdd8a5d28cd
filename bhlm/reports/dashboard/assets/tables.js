// Tables: rows that stand in the page with few digits, and their numbers with all of them.

const UNSHOWN = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;
const JOINERS = "\u200c\u200d";
const FEW = 12; // rows that need no search

function escapeText(text) {
  const found = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
  return text.replace(/[&<>"']/g, (letter) => found[letter]);
}

// What breaks or hides text is shown as an escape.
function reveal(text) {
  return String(text).replace(UNSHOWN, (letter) =>
    JOINERS.includes(letter) ? letter : `\\u{${letter.codePointAt(0).toString(16)}}`
  );
}

function showNumber(value, digits) {
  if (value === null) return "–";
  if (typeof value === "string") return value.replace("inf", "∞");
  if (Number.isInteger(value)) return Math.abs(value) < 1e15 ? String(value) : value.toExponential();
  const exponent = Number(value.toExponential(digits - 1).split("e")[1]);
  if (exponent < -5 || exponent >= 9) return value.toExponential(digits - 1);
  return value.toFixed(Math.max(digits - 1 - exponent, 0));
}

function orderNumber(value) {
  if (value === null) return -Number.MAX_VALUE;
  if (typeof value === "string") return value.startsWith("-") ? -Infinity : Infinity;
  return value;
}

// The rows stand in the page; here they learn to be sorted, searched and chosen.
function drawTable(place) {
  if (place.dataset.ready) return;
  place.dataset.ready = "yes";
  const { columns } = read(place.dataset.table);
  const table = place.querySelector("table");
  const rows = [...table.tBodies[0].rows];
  rows.forEach((row, at) => { row.dataset.at = at; });
  for (const cell of table.tHead.rows[0].cells) makeSortable(table, cell, columns, rows);
  const isLong = rows.length > FEW;
  if (isLong) place.before(makeSearch(table, columns, rows));
  const named = columns.find((column) => column.name === groupingName() || column.name === "group");
  if (named && rows.length) markGroups(table, named, rows);
  fitColumns(place);
}

// Columns that are looked up rather than read: errors, and ends of intervals.
const DETAIL = /(\bse|_se| interval|2\.5 %|97\.5 %|^lower|^upper|^low|^high|_low|_high)$/i;
const UPPER = /(97\.5 %|^upper|^high|_high)$/i;
// And what a reader knows without them, the first to go in front.
const KNOWN = ["reliability", "n", "rows", "expected", "OLS", "coefficient"];
const ALWAYS = ["p", "verdict", "fmi"];

// Names stay on one line where they have room. Columns that have none are hidden, from the right,
// until none is cut; the button shows them all.
function fitColumns(place) {
  const table = place.querySelector("table");
  const button = document.querySelector(`[data-more="${CSS.escape(place.dataset.table)}"]`);
  if (!button || !place.clientWidth) return;
  const mark = (at, isHidden) => {
    for (const row of table.rows) if (row.cells[at]) row.cells[at].classList.toggle("no-room", isHidden);
  };
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, at) => { if (head.classList.contains("no-room")) mark(at, false); });
  // A group has a row for each coefficient: without their names nobody knows which is which.
  const kinds = read(place.dataset.table).columns.find(({ name }) => name === "coefficient");
  const isTold = kinds && new Set(kinds.values).size > 1;
  const spare = heads.map((head, at) => ({ at, name: head.dataset.name }))
    .filter(({ at, name }) => at > 0 && !ALWAYS.includes(name) && !(isTold && name === "coefficient"))
    .reverse();
  const rank = ({ name }) => {
    if (DETAIL.test(name)) return -1;
    return KNOWN.includes(name) ? KNOWN.indexOf(name) : KNOWN.length;
  };
  const order = spare.sort((one, two) => rank(one) - rank(two));
  const isWhole = table.classList.contains("whole");
  table.classList.remove("whole");
  table.classList.add("firm");
  if (place.scrollWidth > place.clientWidth + 1) table.classList.remove("firm");
  while (order.length > 1 && place.scrollWidth > place.clientWidth + 1) {
    const gone = order.shift();
    mark(gone.at, true);
    // One end of an interval says nothing without the other.
    if (UPPER.test(gone.name) && order.length > 1 && DETAIL.test(order[0].name)) {
      mark(order.shift().at, true);
    }
  }
  table.classList.toggle("whole", isWhole);
  const isShort = button.dataset.short !== undefined;
  button.hidden = !isShort && !table.querySelector("th.no-room");
}

function makeSortable(table, cell, columns, rows) {
  const column = columns.find(({ name }) => reveal(name) === cell.dataset.name)
    || columns[cell.cellIndex];
  const button = document.createElement("button");
  button.type = "button";
  button.append(...cell.childNodes);
  cell.append(button);
  button.addEventListener("click", () => {
    const isUp = cell.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    cell.setAttribute("aria-sort", isUp ? "ascending" : "descending");
    const sign = isUp ? 1 : -1;
    const isNumber = column.kind === "number";
    const key = (row) => {
      const value = column.values[Number(row.dataset.at)];
      return isNumber ? orderNumber(value) : String(value);
    };
    const ordered = [...rows].sort((one, two) => {
      const [a, b] = [key(one), key(two)];
      const order = isNumber ? a - b : a.localeCompare(b, undefined, { numeric: true });
      return sign * (order || 0) || one.dataset.at - two.dataset.at;
    });
    table.tBodies[0].append(...ordered);
  });
}

// Labels alone are searched: a digit of some estimate is not what anybody looks for.
function makeSearch(table, columns, rows) {
  const label = document.createElement("label");
  label.className = "search";
  const first = columns.findIndex((column) => column.kind === "number");
  const named = columns.slice(0, Math.max(1, first < 0 ? columns.length : first));
  label.append(`Search ${reveal(named[0].name.replace(/^label of /, ""))} `);
  const field = document.createElement("input");
  field.type = "search";
  label.append(field);
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase();
    rows.forEach((row, at) => {
      row.hidden = !named.some((column) =>
        reveal(String(column.values[at])).toLowerCase().includes(wanted));
    });
  });
  return label;
}

function markGroups(table, column, rows) {
  rows.forEach((row, at) => { row.dataset.group = String(column.values[at]); });
  table.tBodies[0].addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row) chooseGroup(groupingName(), row.dataset.group);
  });
  showGroup();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-more]");
  if (!button) return;
  const table = document.querySelector(`[data-table="${CSS.escape(button.dataset.more)}"] table`);
  const isWhole = table.classList.toggle("whole");
  button.setAttribute("aria-pressed", String(isWhole));
});

// RFC 4180, with every digit of the numbers. Text that a spreadsheet would run as a formula gets
// an apostrophe in front, by which it stays text there.
function writeCsv(columns) {
  const cell = (value) => {
    if (value === null) return "";
    const runs = typeof value === "string" && /^(\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n])/.test(value);
    const text = runs ? `'${value}` : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = [columns.map((column) => cell(column.name)).join(",")];
  const count = columns.length ? columns[0].values.length : 0;
  for (let at = 0; at < count; at++) {
    lines.push(columns.map((column) => cell(column.values[at])).join(","));
  }
  return lines.join("\r\n") + "\r\n";
}
