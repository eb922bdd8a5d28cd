// What scrolls sideways can be reached and moved by keyboard; the two side columns have names.
function reachScrollers() {
  for (const box of document.querySelectorAll("pre, .table-wrapper, table.docutils, .cell_output")) {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}
for (const [place, name] of [[".sidebar-drawer", "Pages"], [".toc-drawer", "On this page"]]) {
  document.querySelector(place)?.setAttribute("aria-label", name);
}
reachScrollers();
addEventListener("resize", reachScrollers);
addEventListener("load", reachScrollers);
