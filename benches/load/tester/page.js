for (const figure of document.querySelectorAll("figure.plot")) {
  const svg = figure.querySelector("svg"), source = figure.querySelector("script");
  if (!svg || !source) continue;
  const data = JSON.parse(source.textContent), cross = svg.querySelector(".cross");
  const tip = figure.appendChild(document.createElement("div"));
  tip.className = "tip";
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale;
    const wanted = data.x0 + (x - data.left) / (data.right - data.left) * (data.x1 - data.x0);
    let near = 0;
    data.x.forEach((value, place) => { if (Math.abs(value - wanted) < Math.abs(data.x[near] - wanted)) near = place; });
    const at = data.left + (data.x[near] - data.x0) / (data.x1 - data.x0) * (data.right - data.left);
    cross.setAttribute("d", `M${at} ${data.top}V${data.bottom}`);
    tip.replaceChildren(document.createTextNode(data.names[near]));
    for (const line of data.lines) {
      if (line.y[near] == null) continue;
      const row = tip.appendChild(document.createElement("div"));
      row.appendChild(document.createElement("i")).className = line.class;
      row.appendChild(document.createTextNode(`${line.name}: ${line.y[near]} ${data.unit}`));
    }
    tip.style.display = "block";
    const left = at / scale + 24, room = box.width - tip.offsetWidth;
    tip.style.left = `${left > room ? at / scale - tip.offsetWidth : left}px`;
  });
  svg.addEventListener("pointerleave", () => { tip.style.display = "none"; cross.setAttribute("d", ""); });
}
