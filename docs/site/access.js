// What the theme lacks for keyboards and screen readers: the search's dialog has a name, and boxes that scroll take focus.
document.querySelector('[role="dialog"]').setAttribute("aria-label", "Search")
window.addEventListener("load", () => {
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap, .scroll, .formula"))
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0
})
