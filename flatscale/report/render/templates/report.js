"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const datasets = read("chart-data");
  const specs = read("chart-specs");
  const size = window.matchMedia("(max-width: 760px)").matches ? "narrow" : "wide";
  const options = {
    mode: "vega-lite",
    renderer: "svg",
    actions: { export: true, source: false, compiled: false, editor: false },
  };

  const namesIn = (spec, found) => {
    if (Array.isArray(spec)) spec.forEach((part) => namesIn(part, found));
    else if (spec && typeof spec === "object") {
      if (spec.data && spec.data.name in datasets) found.add(spec.data.name);
      Object.values(spec).forEach((part) => namesIn(part, found));
    }
    return found;
  };

  // A chart of one panel follows its container by itself; panels side by side share it here.
  const fit = (spec, factor) => {
    for (const part of [spec.concat, spec.hconcat, spec.vconcat].flatMap((parts) => parts ?? [])) {
      if (typeof part.width === "number") part.width = Math.floor(part.width * factor);
      fit(part, factor);
    }
  };

  window.flatscaleViews = {};
  const draw = async (key) => {
    const spec = specs[key][size];
    const place = document.getElementById("chart-" + key);
    const room = place.clientWidth - parseFloat(getComputedStyle(place).paddingRight);
    fit(spec, room / spec.usermeta.width);
    for (const name of namesIn(spec, new Set())) {
      spec.datasets = { ...spec.datasets, [name]: datasets[name] };
    }
    const drawn = await window.vegaEmbed(place, spec, options);
    window.flatscaleViews[key] = drawn.view;
  };
  Promise.all(Object.keys(specs).map(draw)).then(() => {
    document.documentElement.dataset.ready = "yes";
  });

  const compare = (a, b) => {
    if (a === b) return 0;
    if (a === "") return 1;
    if (b === "") return -1;
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  };
  const sortBy = (header) => {
    const table = header.closest("table");
    const column = header.cellIndex;
    const down = header.getAttribute("aria-sort") === "ascending";
    const rows = [...table.tBodies[0].rows];
    const keyed = rows.map((row) => [row.cells[column].dataset.order ?? "", row]);
    const present = keyed.filter(([key]) => key !== "");
    present.sort(([a], [b]) => (down ? compare(b, a) : compare(a, b)));
    const missing = keyed.filter(([key]) => key === "");
    table.tBodies[0].append(...[...present, ...missing].map(([, row]) => row));
    for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
  };
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => sortBy(button.closest("th")));
  }
})();
