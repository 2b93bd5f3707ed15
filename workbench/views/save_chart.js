// Saves one chart of the page as PNG or SVG: title, names of the lines in their colours, and the figure itself.

export function render({model}) {
  model.on("job", () => { if (model.job.figure) save(model.job) })
}

function view_of(name) {
  const search = (views) => {
    for (const view of views) {
      if (view.model.name === name && view.export) return view
      const below = search([...(view.child_views || []), ...(view._child_views ? view._child_views.values() : [])])
      if (below) return below
    }
    return null
  }
  return search([...window.Bokeh.index.roots])
}

async function save({kind, figure, title, chips, file}) {
  const view = view_of(figure)
  if (!view) return
  const style = getComputedStyle(document.documentElement)
  const ground = style.getPropertyValue("--panel-surface-color").trim() || "#fff"
  const ink = style.getPropertyValue("--panel-on-background-color").trim() || "#000"
  const {width, height} = view.bbox
  const font = "Inter, system-ui, Arial, sans-serif"
  const above = 30 + 18 * Math.ceil(chips.length / 2)
  if (kind === "png") {
    const layer = view.export("png", true), ratio = layer.pixel_ratio
    const canvas = document.createElement("canvas")
    canvas.width = width * ratio
    canvas.height = (height + above) * ratio
    const to = canvas.getContext("2d")
    to.scale(ratio, ratio)
    to.fillStyle = ground
    to.fillRect(0, 0, width, height + above)
    to.fillStyle = ink
    to.font = `600 14px ${font}`
    to.fillText(title, 16, 20)
    to.font = `12px ${font}`
    chips.forEach(([name, colour], at) => {
      const x = 16 + (at % 2) * (width / 2), y = 30 + 18 * Math.floor(at / 2)
      to.fillStyle = colour
      to.fillRect(x, y, 10, 10)
      to.fillStyle = ink
      to.fillText(name, x + 16, y + 9, width / 2 - 40)
    })
    to.drawImage(layer.canvas, 0, above, width, height)
    canvas.toBlob((blob) => hand_out(blob, `${file}.png`))
  } else {
    const space = "http://www.w3.org/2000/svg"
    const made = (tag, attributes, text) => {
      const one = document.createElementNS(space, tag)
      for (const [name, value] of Object.entries(attributes)) one.setAttribute(name, value)
      if (text !== undefined) one.textContent = text
      return one
    }
    const whole = made("svg", {xmlns: space, width, height: height + above, viewBox: `0 0 ${width} ${height + above}`})
    whole.append(made("rect", {width: "100%", height: "100%", fill: ground}))
    whole.append(made("text", {x: 16, y: 20, fill: ink, "font-family": font, "font-size": 14, "font-weight": 600}, title))
    chips.forEach(([name, colour], at) => {
      const x = 16 + (at % 2) * (width / 2), y = 30 + 18 * Math.floor(at / 2)
      whole.append(made("rect", {x, y, width: 10, height: 10, fill: colour}))
      whole.append(made("text", {x: x + 16, y: y + 9, fill: ink, "font-family": font, "font-size": 12}, name))
    })
    const drawn = new DOMParser().parseFromString(await (await view.export("svg", false).to_blob()).text(), "image/svg+xml")
    const inner = document.importNode(drawn.documentElement, true)
    inner.setAttribute("y", above)
    whole.append(inner)
    hand_out(new Blob([new XMLSerializer().serializeToString(whole)], {type: "image/svg+xml"}), `${file}.svg`)
  }
}

function hand_out(blob, name) {
  const link = document.createElement("a")
  link.href = URL.createObjectURL(blob)
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 10000)
}
