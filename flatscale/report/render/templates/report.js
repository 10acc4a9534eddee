"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const datasets = read("chart-data");
  const specs = read("chart-specs");
  const options = {
    mode: "vega-lite",
    renderer: "svg",
    actions: { export: true, source: false, compiled: false, editor: false },
  };

  // Charts: laid out for the room they have, drawn when it is known, laid out again when it changes.
  const namesIn = (spec, found) => {
    if (Array.isArray(spec)) spec.forEach((part) => namesIn(part, found));
    else if (spec && typeof spec === "object") {
      if (spec.data && spec.data.name in datasets) found.add(spec.data.name);
      Object.values(spec).forEach((part) => namesIn(part, found));
    }
    return found;
  };
  // A chart of one panel is as wide as its place; panels side by side share it with their axes.
  const fit = (spec, room) => {
    const columns = Math.min(spec.columns ?? 1, spec.concat.length);
    for (const panel of spec.concat) {
      const before = panel.width;
      panel.width = Math.floor(room / columns - (spec.usermeta.width / columns - before));
      panel.height = Math.round(panel.height * Math.min(1.5, panel.width / before));
    }
  };
  // A chart once for each part of an axis: its own layers, side by side, on shared scales.
  const facetOf = {};
  const faceted = (spec, axis, room) => {
    const { layer, width, height, autosize, ...rest } = spec;
    const fromTrials = (part) => part.data && part.data.name === "trials";
    const inner = layer.map(({ data, ...part }) => (fromTrials({ data }) ? part : { data, ...part }));
    const columns = Math.max(1, Math.min(axis.parts.length, Math.floor(room / 240)));
    const panel = Math.floor((room - 70) / columns) - 24;
    const facet = { field: axis.key, type: "nominal", sort: axis.parts, title: axis.name };
    return {
      ...rest,
      data: { name: "trials" },
      facet,
      columns,
      spec: { layer: inner, width: panel, height: Math.min(height, Math.max(180, panel)) },
    };
  };
  const offerFacets = (key, place, axes) => {
    if (!axes.length) return;
    let form = place.querySelector("form.vega-bindings");
    if (!form) {
      form = document.createElement("form");
      form.className = "vega-bindings";
      place.append(form);
    }
    const label = document.createElement("label");
    const choice = document.createElement("select");
    choice.name = "facet";
    choice.append(new Option("none", ""), ...axes.map(({ name, key }) => new Option(name, key)));
    choice.value = facetOf[key] ?? "";
    label.append("facet: ", choice);
    choice.addEventListener("change", () => {
      facetOf[key] = choice.value;
      delete drawnAt[key];
      draw(key);
    });
    form.append(label);
  };
  const views = (window.flatscaleViews = {});
  const drawnAt = {};
  const roomOf = (place) =>
    Math.floor(place.clientWidth || document.querySelector("main").clientWidth);
  const draw = async (key) => {
    const place = document.getElementById("chart-" + key);
    const room = roomOf(place);
    if (drawnAt[key] === room) return;
    const looks = Object.entries(specs[key]);
    const fitting = looks.filter(([, look]) => 0.8 * look.usermeta.width <= room);
    const [name, look] = fitting[0] ?? looks[looks.length - 1];
    const before = drawnAt[key];
    drawnAt[key] = room;
    if (before && look.width === "container" && views[key].flatscaleLook === name) {
      await views[key].width(room).runAsync();
      return;
    }
    let spec = structuredClone(look);
    const axes = spec.usermeta.facets ?? [];
    const axis = axes.find((one) => one.key === facetOf[key]);
    const colour = views[key]?.getState().signals.colour;
    if (axis) spec = faceted(spec, axis, room);
    else if (spec.width === "container") spec.width = room;
    else if (spec.concat) fit(spec, room - 24);
    for (const data of namesIn(spec, new Set())) {
      spec.datasets = { ...spec.datasets, [data]: datasets[data] };
    }
    if (views[key]) views[key].finalize();
    const drawn = await window.vegaEmbed(place, spec, options);
    drawn.view.flatscaleLook = axis ? null : name;
    views[key] = drawn.view;
    offerFacets(key, place, axes);
    if (colour) await drawn.view.signal("colour", colour).runAsync();
  };
  const isOpen = (element) => !element.closest("details:not([open])");
  const placeOf = (key) => document.getElementById("chart-" + key);
  const drawOpen = () =>
    Promise.all(Object.keys(specs).filter((key) => isOpen(placeOf(key))).map(draw));

  // Tables: a shadow where there is more, beside a first column that stays.
  const cue = (scroll) => {
    const first = scroll.querySelector("thead th");
    const frame = scroll.parentElement;
    if (first) frame.style.setProperty("--frozen", first.offsetWidth + "px");
    frame.classList.toggle("left", scroll.scrollLeft > 1);
    const right = scroll.scrollWidth - scroll.clientWidth - scroll.scrollLeft > 1;
    frame.classList.toggle("right", right);
    frame.classList.toggle("below", scroll.scrollHeight - scroll.clientHeight - scroll.scrollTop > 1);
  };
  const cues = () => all(".scroll").filter(isOpen).forEach(cue);
  for (const scroll of all(".scroll")) {
    scroll.addEventListener("scroll", () => cue(scroll), { passive: true });
  }
  const compare = (a, b) => {
    if (a === b) return 0;
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  };
  const sortBy = (header) => {
    const table = header.closest("table");
    const column = header.cellIndex;
    const down = header.getAttribute("aria-sort") === "ascending";
    const keyed = [...table.tBodies[0].rows].map((row) => [row.cells[column].dataset.order ?? "", row]);
    const present = keyed.filter(([key]) => key !== "");
    present.sort(([a], [b]) => (down ? compare(b, a) : compare(a, b)));
    const missing = keyed.filter(([key]) => key === "");
    table.tBodies[0].append(...[...present, ...missing].map(([, row]) => row));
    for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
  };
  for (const button of all("th button")) {
    button.addEventListener("click", () => sortBy(button.closest("th")));
  }

  const layOut = async () => {
    cues();
    await drawOpen();
  };
  for (const details of all("main details")) details.addEventListener("toggle", layOut);
  let width = document.documentElement.clientWidth;
  let waiting;
  window.addEventListener("resize", () => {
    clearTimeout(waiting);
    if (document.documentElement.clientWidth === width) return;
    width = document.documentElement.clientWidth;
    waiting = setTimeout(layOut, 120);
  });

  // Opening: whatever is asked for by a link, the address or the search is unfolded first.
  const reveal = (element) => {
    for (let up = element; up; up = up.parentElement) if (up.tagName === "DETAILS") up.open = true;
    const own = element.matches("section.fold") && element.querySelector("details");
    if (own) own.open = true;
  };
  const goTo = (id) => {
    const element = id && document.getElementById(id);
    if (!element) return;
    reveal(element);
    if (contents.dataset.floating) contents.open = false;
    requestAnimationFrame(() => element.scrollIntoView());
  };
  const contents = document.querySelector(".contents");
  const small = window.matchMedia("(max-width: 860px)");
  const adapt = () => {
    contents.open = !small.matches;
    if (small.matches) contents.dataset.floating = "yes";
    else delete contents.dataset.floating;
  };
  small.addEventListener("change", adapt);
  adapt();
  for (const link of all("nav a")) {
    link.addEventListener("click", () => goTo(link.hash.slice(1)));
  }
  window.addEventListener("hashchange", () => goTo(decodeURIComponent(location.hash.slice(1))));

  const unfold = document.getElementById("unfold");
  const folds = all("main details");
  unfold.addEventListener("click", () => {
    const open = unfold.textContent === "Open all";
    folds.forEach((details) => (details.open = open));
    unfold.textContent = open ? "Close all" : "Open all";
  });

  // The contents follow the scroll.
  const links = all("nav a").map((link) => [link, document.getElementById(link.hash.slice(1))]);
  let asked = false;
  const follow = () => {
    asked = false;
    const bottom = window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 2;
    const passed = links.filter(([, section]) => section.getBoundingClientRect().top < 130);
    const [current] = bottom && window.scrollY > 0 ? links[links.length - 1] : passed.at(-1) ?? links[0];
    for (const [link] of links) {
      if (link === current) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    const list = contents.parentElement;
    const { top, bottom: end } = current.getBoundingClientRect();
    if (!small.matches && (top < 60 || end > window.innerHeight)) {
      list.scrollTop += top - window.innerHeight / 2;
    }
  };
  const askToFollow = () => {
    if (!asked) requestAnimationFrame(follow);
    asked = true;
  };
  window.addEventListener("scroll", askToFollow, { passive: true });

  // The search: every sentence, caption and row of a table that has all the words.
  const field = document.getElementById("search");
  const results = document.getElementById("results");
  let index;
  const plain = (text) => text.replace(/\s+/g, " ").replaceAll("−", "-").trim();
  const textOf = (element) =>
    plain(element.tagName === "TR" ? [...element.cells].map((c) => c.textContent).join("  ") : element.textContent);
  const indexed = () => {
    const found = all("main h2:not(.hidden), main p, main li, main figcaption, main tbody tr");
    return found
      .filter((element) => !element.closest(".vega-embed"))
      .map((element) => {
        const section = element.closest("main section.fold");
        const title = section ? section.querySelector("h2").textContent : "The answer";
        const table = element.closest("figure.table");
        const where = table ? `${title} › ${table.querySelector("b").textContent}` : title;
        const text = textOf(element);
        return { element, where, text, low: text.toLowerCase() };
      });
  };
  const MOST = 40;
  const show = (found) => {
    field.blur();
    results.hidden = true;
    reveal(found.element);
    all(".hit").forEach((element) => element.classList.remove("hit"));
    found.element.classList.add("hit");
    setTimeout(() => found.element.scrollIntoView({ block: "center", inline: "nearest" }), 60);
    setTimeout(() => found.element.classList.remove("hit"), 6000);
  };
  const marked = (text, words) => {
    const low = text.toLowerCase();
    const start = Math.max(0, Math.min(...words.map((word) => low.indexOf(word))) - 50);
    const part = (start ? "…" : "") + text.slice(start, start + 190);
    const line = document.createElement("span");
    const pattern = words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|");
    for (const piece of part.split(new RegExp(`(${pattern})`, "gi"))) {
      const node = document.createElement(words.includes(piece.toLowerCase()) ? "mark" : "span");
      node.textContent = piece;
      line.append(node);
    }
    return line;
  };
  let matches = [];
  const search = () => {
    const words = plain(field.value).toLowerCase().split(" ").filter(Boolean);
    results.replaceChildren();
    results.hidden = !words.length;
    if (!words.length) return;
    index ??= indexed();
    matches = index.filter(({ low }) => words.every((word) => low.includes(word)));
    const head = document.createElement("p");
    head.textContent = matches.length
      ? `${matches.length} found${matches.length > MOST ? `; the first ${MOST}` : ""}`
      : "Nothing found";
    results.append(head);
    for (const found of matches.slice(0, MOST)) {
      const button = document.createElement("button");
      const where = document.createElement("small");
      where.textContent = found.where;
      button.type = "button";
      button.append(where, marked(found.text, words));
      button.addEventListener("click", () => show(found));
      results.append(button);
    }
  };
  field.addEventListener("input", search);
  field.addEventListener("focus", search);
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && matches.length) show(matches[0]);
    if (event.key === "Escape") results.hidden = true;
    if (event.key === "ArrowDown") results.querySelector("button")?.focus();
  });
  results.addEventListener("keydown", (event) => {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    if (step) document.activeElement[step]?.focus();
    if (event.key === "Escape") results.hidden = true;
    if (step) event.preventDefault();
  });
  document.addEventListener("pointerdown", (event) => {
    if (!event.target.closest(".search")) results.hidden = true;
  });

  // On paper everything is open, and every chart drawn.
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = folds.filter((details) => !details.open);
    closed.forEach((details) => (details.open = true));
    Object.keys(specs).forEach((key) => drawnAt[key] || draw(key));
  });
  window.addEventListener("afterprint", () => closed.forEach((details) => (details.open = false)));

  goTo(decodeURIComponent(location.hash.slice(1)));
  follow();
  layOut().then(() => {
    document.documentElement.dataset.ready = "yes";
  });
})();
