// A table whose rows and cells can be chosen. All text reaches the page as textContent: nothing of it is markup.
// Python sorts, filters and cuts into pages; here rows are drawn, and what is clicked is told.

function element(tag, classes, text) {
  const made = document.createElement(tag)
  if (classes) made.className = classes
  if (text !== undefined && text !== null) made.textContent = text
  return made
}

function filled(cell, tell) {
  // A cell is text, or an object: text, and how it is shown.
  const shown = typeof cell === "object" && cell !== null ? cell : {text: cell}
  const parts = []
  if (shown.chip) {
    const chip = element("i", "chip")
    chip.style.background = shown.chip
    parts.push(chip)
  }
  const words = shown.told ? element("button", "link", shown.text) : element("span", shown.tone || "", shown.text)
  if (shown.told) {
    words.type = "button"
    words.dataset.focus = JSON.stringify(shown.told)
    if (shown.tip) words.title = shown.tip
    words.addEventListener("click", (event) => { event.stopPropagation(); tell(shown.told) })
  }
  parts.push(words)
  if (shown.under) {
    const under = element("div", "under " + (shown.under_tone || ""), shown.under)
    under.title = shown.under
    parts.push(under)
  }
  return parts
}

export function render({model, el}) {
  const scroll = element("div", "scroll"), table = element("table"), head = element("thead"), body = element("tbody")
  const nothing = element("div", "nothing")
  scroll.append(table, nothing)
  if (model.most_px) scroll.style.maxHeight = model.most_px + "px"
  table.append(head, body)
  const tell = (what) => model.send_msg(what)

  function drawHead() {
    const line = element("tr")
    if (model.choosable) {
      const place = element("th", "choice")
      place.append(element("span", "unseen", "compare"))
      line.append(place)
    }
    for (const column of model.columns) {
      const place = element("th", column.number ? "number" : "")
      if (column.tip) place.title = column.tip
      if (column.sort) {
        const by = model.order.replace(/^-/, "") === column.sort
        const down = by && model.order.startsWith("-")
        const button = element("button", "by", column.label)
        button.type = "button"
        button.dataset.focus = "sort " + column.sort
        if (by) button.append(element("span", "arrow", down ? "▼" : "▲"))
        place.setAttribute("aria-sort", by ? (down ? "descending" : "ascending") : "none")
        button.addEventListener("click", () => tell({sort: by && down ? column.sort : by ? "-" + column.sort :
          (column.number ? "-" : "") + column.sort}))
        place.append(button)
      } else {
        place.textContent = column.label
      }
      line.append(place)
    }
    head.replaceChildren(line)
  }

  function drawRow(row) {
    const line = element("tr", (row.told ? "can " : "") + (row.current ? "current " : "") + (row.marked ? "marked" : ""))
    if (model.choosable) {
      const place = element("td", "choice"), box = element("input")
      box.type = "checkbox"
      box.checked = row.chosen === true
      box.disabled = row.chosen === null
      box.setAttribute("aria-label", "compare " + row.key)
      box.dataset.focus = "choose " + row.key
      if (row.colour) box.style.accentColor = row.colour
      box.addEventListener("change", () => tell({choose: row.key, on: box.checked}))
      place.append(box)
      line.append(place)
    }
    row.cells.forEach((cell, at) => {
      const column = model.columns[at] || {}
      const place = element("td", (column.number ? "number " : "") + (column.wide ? "wide" : ""))
      place.append(...filled(cell, tell))
      line.append(place)
    })
    if (row.told) {
      line.tabIndex = 0
      line.dataset.focus = "row " + row.key
      if (row.current) line.setAttribute("aria-current", "true")
      line.addEventListener("click", () => { if (!String(window.getSelection())) tell(row.told) })
      line.addEventListener("keydown", (event) => {
        if (event.target === line && (event.key === "Enter" || event.key === " ")) {
          event.preventDefault()
          tell(row.told)
        } else if (event.target === line && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
          const next = event.key === "ArrowDown" ? line.nextElementSibling : line.previousElementSibling
          if (next) { event.preventDefault(); next.focus() }
        }
      })
    }
    return line
  }

  function draw() {
    // What has the focus keeps it, although it is made anew.
    const root = table.getRootNode(), focused = root.activeElement && root.activeElement.dataset.focus
    table.setAttribute("aria-label", model.label)
    drawHead()
    body.replaceChildren(...model.rows.map(drawRow))
    nothing.textContent = model.rows.length ? "" : model.nothing
    if (focused) {
      const again = [...table.querySelectorAll("[data-focus]")].find((one) => one.dataset.focus === focused)
      if (again) again.focus({preventScroll: true})
    }
  }

  for (const name of ["columns", "rows", "order", "label", "nothing"]) model.on(name, draw)
  draw()
  el.append(scroll)
}
