// Tables: columns of numbers with all their digits, shown with fewer by DataTables.

const UNSHOWN = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;
const JOINERS = "\u200c\u200d";
const LONGEST_CELL = 80;
const PROSE = 40; // characters of a cell from which a column is wrapped
const FEW = 12; // rows that need no search
const PAGE = 25; // rows at a time

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

function showText(text) {
  const whole = reveal(text);
  if (whole.length <= LONGEST_CELL) return `<bdi>${escapeText(whole)}</bdi>`;
  const start = escapeText(whole.slice(0, LONGEST_CELL - 1));
  return `<bdi title="${escapeText(whole)}">${start}…</bdi>`;
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

function describeColumn(column, at, digits) {
  const isNumber = column.kind === "number";
  const widest = isNumber ? 0 : Math.max(0, ...column.values.map((cell) => String(cell).length));
  return {
    data: at,
    type: isNumber ? "num" : "string",
    className: isNumber ? "" : widest > PROSE ? "word prose" : "word",
    render: (value, kind) => {
      if (kind === "display") {
        if (isNumber) return showNumber(value, digits);
        if (value === null) return "–";
        // A column of settings: each number by itself, without filling zeros.
        return showText(typeof value === "number" ? Number(value.toPrecision(digits)) : value);
      }
      if (kind === "sort" && isNumber) return orderNumber(value);
      // DataTables reads what it searches as HTML.
      if (kind === "filter") return value === null ? "" : escapeText(String(value));
      return value === null ? "" : value;
    },
  };
}

function drawTable(place) {
  if (place.firstChild) return;
  const { columns, digits } = read(place.dataset.table);
  const count = columns.length ? columns[0].values.length : 0;
  const rows = Array.from({ length: count }, (_, at) => columns.map((column) => column.values[at]));
  const table = document.createElement("table");
  // Headings that stand there as text are read as text, by DataTables and by screen readers.
  const heading = table.createTHead().insertRow();
  for (const column of columns) {
    const cell = document.createElement("th");
    cell.innerHTML = showText(column.name);
    heading.append(cell);
  }
  place.append(table);
  const isLong = count > PAGE;
  new DataTable(table, {
    data: rows,
    columns: columns.map((column, at) => describeColumn(column, at, digits)),
    order: [],
    autoWidth: false,
    deferRender: true,
    paging: isLong,
    pageLength: PAGE,
    layout: {
      topStart: count > FEW ? "search" : null,
      topEnd: null,
      bottomStart: isLong ? "info" : null,
      bottomEnd: isLong ? "paging" : null,
    },
  });
  const scroller = place.querySelector("div.dt-layout-table");
  scroller.tabIndex = 0;
  scroller.setAttribute("role", "region");
  scroller.setAttribute("aria-label", place.getAttribute("aria-label"));
}

// RFC 4180, with every digit of the numbers. Text that a spreadsheet would run as a formula gets
// an apostrophe in front, by which it stays text there.
function writeCsv(columns) {
  const cell = (value) => {
    if (value === null) return "";
    const runs = typeof value === "string" && /^[=+\-@\t\r]/.test(value);
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
