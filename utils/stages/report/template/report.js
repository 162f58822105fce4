// One K for samples and histograms; two thresholds, and the shares of every K for them.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const panels = [...document.querySelectorAll(".panel")];
  let chosen = 0;

  // ---- drawing -------------------------------------------------------------------------------
  const SVG = "http://www.w3.org/2000/svg";
  function draw(parent, name, attributes, text) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    parent.appendChild(node);
    return node;
  }
  function canvas(parent, width, height) {
    parent.textContent = "";
    return draw(parent, "svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  }
  const digits = (x) => Number(x.toPrecision(3)).toString();
  const percent = (n, of) => (of ? (100 * n / of).toFixed(1) : "0.0") + " %";

  // ---- K -------------------------------------------------------------------------------------
  function choose(index) {
    chosen = Math.max(0, Math.min(panels.length - 1, index));
    const slider = byId("size"), k = data.sizes[chosen];
    slider.value = chosen;
    slider.setAttribute("aria-valuetext", `K = ${k}`);
    byId("size-told").textContent = `K = ${k}`;
    byId("smaller").disabled = chosen === 0;
    byId("larger").disabled = chosen === panels.length - 1;
    panels.forEach((panel, i) => { panel.hidden = i !== chosen; });
    if (data.what_if) histograms();
  }

  // ---- thresholds ----------------------------------------------------------------------------
  const whatIf = data.what_if;
  const at = whatIf ? whatIf.axes.map((axis) => axis.at) : [];

  function classOf(i, j) {  // 0 memorized, 1 spurious, 2 generalized
    return i <= at[0] ? 0 : j <= at[1] ? 1 : 2;
  }
  function counts(flat) {  // of each class; flat: bin on x, bin on y, samples, ...
    const total = [0, 0, 0];
    for (let c = 0; c < flat.length; c += 3) total[classOf(flat[c], flat[c + 1])] += flat[c + 2];
    return total;
  }
  function shares() {
    const every = whatIf.cells.map(counts);
    const body = byId("shares").tBodies[0];
    body.textContent = "";
    every.forEach((total, i) => {
      const row = body.insertRow();
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = whatIf.sizes[i];
      row.appendChild(head);
      row.insertCell().textContent = whatIf.samples[i];
      const real = counts(whatIf.real_cells[i]), others = whatIf.real_samples[i];
      total.forEach((n, c) => {
        row.insertCell().textContent = percent(n, whatIf.samples[i]) +
          (others ? ` (${percent(real[c], others)})` : "");
      });
    });
    chart(every);
    const same = at.every((a, i) => a === whatIf.axes[i].at);
    byId("shares-told").textContent =
      whatIf.axes.map((axis, i) => `${axis.symbol} = ${digits(axis.edges[at[i]])}`).join(", ") +
      (same ? ", the thresholds of this run. " : ". ") +
      whatIf.names.map((name, c) => {
        const of = (i) => percent(every[i][c], whatIf.samples[i]);
        return `${name}: ${of(0)} at K = ${whatIf.sizes[0]}, ${of(every.length - 1)} at K = ${whatIf.sizes.at(-1)}`;
      }).join("; ") + ".";
  }
  function chart(every) {
    const width = 640, height = 300, left = 46, right = 14, top = 26, bottom = 44;
    const svg = canvas(byId("shares-chart"), width, height);
    const logs = whatIf.sizes.map(Math.log), low = logs[0], span = (logs.at(-1) - low) || 1;
    const x = (i) => logs.length < 2 ? width / 2 : left + 12 + (logs[i] - low) / span * (width - left - right - 24);
    const y = (share) => top + (1 - share) * (height - top - bottom);
    for (const share of [0, .25, .5, .75, 1]) {
      draw(svg, "line", { class: "grid", x1: left, x2: width - right, y1: y(share), y2: y(share) });
      draw(svg, "text", { x: left - 6, y: y(share) + 4, "text-anchor": "end" }, 100 * share);
    }
    let last = -Infinity;
    whatIf.sizes.forEach((k, i) => {
      if (x(i) - last < 9 * String(k).length + 6) return;
      last = x(i);
      draw(svg, "text", { x: x(i), y: height - bottom + 17, "text-anchor": "middle" }, k);
    });
    draw(svg, "text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, "Training-set size K (images)");
    draw(svg, "text", { x: 4, y: 12 }, "Share of samples (%)");
    whatIf.names.forEach((name, c) => {
      const points = every.map((total, i) => [x(i), y(whatIf.samples[i] ? total[c] / whatIf.samples[i] : 0)]);
      draw(svg, "polyline", { class: `line ${name}`, points: points.map((p) => p.join(",")).join(" ") });
      points.forEach(([px, py]) => mark(svg, name, px, py));
      const lx = 250 + 130 * c;
      mark(svg, name, lx, 8);
      draw(svg, "text", { x: lx + 10, y: 12 }, name);
    });
  }
  function mark(svg, name, x, y) {
    if (name === "memorized") draw(svg, "circle", { class: name, cx: x, cy: y, r: 4.5 });
    else if (name === "spurious") draw(svg, "path", { class: name, d: `M${x} ${y - 5.5}l5.2 9h-10.4z` });
    else draw(svg, "rect", { class: name, x: x - 4, y: y - 4, width: 8, height: 8 });
  }
  function histograms() {
    const k = data.sizes[chosen], index = whatIf.sizes.indexOf(k);
    byId("histogram-k").textContent = index < 0 ? `K = ${k}: not judged by these thresholds` : `K = ${k}`;
    whatIf.axes.forEach((axis, side) => histogram(axis, side, index < 0 ? [] : whatIf.cells[index], k));
  }
  function histogram(axis, side, flat, k) {
    const width = 420, height = 220, left = 40, right = 10, top = 24, bottom = 44;
    const parent = byId(`histogram-${side}`), svg = canvas(parent, width, height);
    const edges = axis.edges, bins = edges.map(() => [0, 0, 0]);
    let beyond = 0;
    for (let c = 0; c < flat.length; c += 3) {
      const bin = flat[c + side];
      if (bin < edges.length) bins[bin][classOf(flat[c], flat[c + 1])] += flat[c + 2];
      else beyond += flat[c + 2];
    }
    const most = Math.max(1, ...bins.map((b) => b[0] + b[1] + b[2]));
    const x = (d) => left + d / (edges.at(-1) || 1) * (width - left - right);
    const y = (n) => height - bottom - n / most * (height - top - bottom);
    draw(svg, "line", { class: "axis", x1: left, x2: width - right, y1: y(0), y2: y(0) });
    draw(svg, "text", { x: left - 6, y: y(most) + 8, "text-anchor": "end" }, most);
    draw(svg, "text", { x: left - 6, y: y(0), "text-anchor": "end" }, 0);
    draw(svg, "text", { x: 0, y: 11 }, "Samples");
    for (const part of [0, .25, .5, .75, 1]) {
      const d = part * edges.at(-1);
      draw(svg, "text", { x: x(d), y: height - bottom + 16, "text-anchor": part === 1 ? "end" : "middle" }, digits(d));
    }
    draw(svg, "text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, axis.label);
    bins.forEach((bin, i) => {
      // samples at exactly 0 get a bar half as wide as the next one
      const from = i ? edges[i - 1] : 0, to = i ? edges[i] : (edges[1] || 1) / 2;
      let base = 0;
      bin.forEach((n, c) => {
        if (!n) return;
        draw(svg, "rect", { class: `bar ${whatIf.names[c]}`, x: x(from), width: Math.max(1, x(to) - x(from)),
                            y: y(base + n), height: y(base) - y(base + n) });
        base += n;
      });
    });
    const limit = edges[at[side]];
    draw(svg, "line", { class: "limit", x1: x(limit), x2: x(limit), y1: top - 8, y2: y(0) });
    const inside = bins.slice(0, at[side] + 1).flat().reduce((a, b) => a + b, 0);
    parent.setAttribute("aria-label", `${axis.label}, K = ${k}: ${inside} samples up to ${axis.symbol} = ` +
      `${digits(limit)}` + (beyond ? `, ${beyond} beyond the axis` : ""));
  }
  function threshold(side, value) {
    const axis = whatIf.axes[side];
    at[side] = Math.max(0, Math.min(axis.edges.length - 1, value));
    const slider = byId(`limit-${side}`), text = `${axis.symbol} = ${digits(axis.edges[at[side]])}`;
    slider.value = at[side];
    slider.setAttribute("aria-valuetext", text);
    byId(`limit-told-${side}`).textContent = text;
  }
  function redraw() {
    shares();
    if (panels.length) histograms();
  }

  // ---- start ---------------------------------------------------------------------------------
  if (whatIf) {
    byId("what-if").hidden = false;
    byId("needs-script").hidden = true;
    whatIf.axes.forEach((axis, side) => {
      threshold(side, axis.at);
      byId(`limit-${side}`).addEventListener("input", (event) => {
        threshold(side, Number(event.target.value));
        redraw();
      });
    });
    byId("back").addEventListener("click", () => {
      whatIf.axes.forEach((axis, side) => threshold(side, axis.at));
      redraw();
    });
  }
  if (panels.length) {
    byId("chooser").hidden = false;
    byId("size").addEventListener("input", (event) => choose(Number(event.target.value)));
    byId("smaller").addEventListener("click", () => choose(chosen - 1));
    byId("larger").addEventListener("click", () => choose(chosen + 1));
    choose(0);
  }
  if (whatIf) shares();
})();
