// The page: light and dark, drawing what comes into view, copying, printing.

const root = document.documentElement;
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const printing = matchMedia("print");
const toggle = document.getElementById("theme");
let chosenPage = null; // what the reader asked for, over the system's preference

function isPrinting() {
  return printing.matches || Boolean(root.dataset.printing);
}

function currentPage() {
  if (isPrinting()) return "light";
  return chosenPage || (prefersDark.matches ? "dark" : "light");
}

function applyPage() {
  const page = currentPage();
  root.dataset.theme = page;
  for (const [role, inks] of Object.entries(SHARED.roles)) {
    root.style.setProperty(`--role-${role}`, inks[page]);
  }
  toggle.textContent = page === "dark" ? "Light page" : "Dark page";
  redrawAll();
}

toggle.hidden = false;
toggle.addEventListener("click", () => {
  chosenPage = currentPage() === "dark" ? "light" : "dark";
  applyPage();
});
prefersDark.addEventListener("change", applyPage);
applyPage();

const DRAW = [
  ["[data-figure]", drawFigure],
  ["[data-table]", drawTable],
  ["[data-chooser]", drawChooser],
];
const observer = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      observer.unobserve(target);
      DRAW.find(([selector]) => target.matches(selector))[1](target);
    }
  },
  { rootMargin: "400px 0px" }
);
for (const [selector] of DRAW) {
  for (const element of document.querySelectorAll(selector)) observer.observe(element);
}

let waiting = 0;
addEventListener("resize", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    redrawAll();
    document.querySelectorAll("[data-table][data-ready]").forEach(fitColumns);
  }, 150);
});

function drawEverything() {
  for (const [selector, action] of DRAW) {
    for (const element of document.querySelectorAll(selector)) action(element);
  }
}

// What an address points to is unfolded; #school=2277 chooses a group.
function follow() {
  if (readHash()) {
    showGroup();
    const chooser = document.querySelector("[data-chooser]");
    if (askedGroup() !== null && chooser) chooser.scrollIntoView();
    return;
  }
  const target = location.hash && document.getElementById(location.hash.slice(1));
  const fold = target && target.closest("details");
  if (fold && !fold.open) {
    fold.open = true;
    target.scrollIntoView();
  }
}
addEventListener("hashchange", follow);
follow();

function nameFile(anchor, ending) {
  const title = document.title.normalize("NFKD").replace(/[^\w]+/g, "-").replace(/^-|-$/g, "");
  return `${title.slice(0, 40) || "bhlm"}-${anchor}${ending}`;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-image]");
  if (!button) return;
  const { image, format } = button.dataset;
  const element = document.querySelector(
    `[data-figure="${CSS.escape(image)}"], [data-chooser="${CSS.escape(image)}"] .chosen`);
  Plotly.downloadImage(element, {
    format, filename: nameFile(image, ""), width: element.clientWidth,
    height: element.clientHeight, scale: format === "png" ? 3 : 1,
  });
});
addEventListener("beforeprint", () => {
  root.dataset.printing = "yes";
  drawEverything();
  applyPage();
});
addEventListener("afterprint", () => {
  delete root.dataset.printing;
  applyPage();
});
printing.addEventListener("change", () => {
  if (printing.matches) {
    root.dataset.printing = "yes";
    drawEverything();
  } else delete root.dataset.printing;
  applyPage();
});

// What was found is told at once where it leaves the first chart in its place.
for (const folded of document.querySelectorAll(".lead.banner > .why")) {
  const banner = folded.parentElement;
  const height = banner.offsetHeight;
  folded.open = true;
  if (banner.offsetHeight > height) folded.open = false;
}

// The section in view, in the navigation.
const links = new Map(
  [...document.querySelectorAll("body > nav a")].map((link) => [link.hash.slice(1), link])
);
function markSection() {
  const sections = [...document.querySelectorAll("main > section")];
  const passed = sections.filter((section) => section.getBoundingClientRect().top < innerHeight / 3);
  const here = (passed.at(-1) || sections[0]).id;
  for (const [name, link] of links) {
    if (name === here && !link.hasAttribute("aria-current")) {
      link.setAttribute("aria-current", "true");
      const bar = link.closest("ul");
      bar.scrollLeft += link.getBoundingClientRect().left - bar.getBoundingClientRect().left - 16;
    } else if (name !== here) link.removeAttribute("aria-current");
  }
}
let framed = false;
addEventListener("scroll", () => {
  if (framed) return;
  framed = true;
  requestAnimationFrame(() => { framed = false; markSection(); });
}, { passive: true });
markSection();

const said = document.getElementById("said");
let silence = 0;
function say(text) {
  said.textContent = text;
  clearTimeout(silence);
  silence = setTimeout(() => { said.textContent = ""; }, 4000);
}

function csvOf(anchor) {
  const content = read(anchor);
  return writeCsv(content.lines ? listChooser(content) : content.columns);
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without the clipboard's permission the old way is left.
    const area = document.createElement("textarea");
    area.value = text;
    area.setAttribute("aria-hidden", "true");
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy], [data-save]");
  if (!button) return;
  const anchor = button.dataset.copy || button.dataset.save;
  const text = csvOf(anchor);
  if (button.dataset.copy) {
    const done = await copyText(text);
    button.focus();
    const rows = text.split("\r\n").length - 2;
    say(done ? `Copied ${rows} rows.` : "The browser refused to copy; save the CSV instead.");
    return;
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = nameFile(anchor, ".csv");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
