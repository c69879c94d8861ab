"use strict";

// One viewer for each `.viewer` element, made of the JSON inside it. Nodes are numbers, and what is
// known of them are columns, as in the trace. Only the rows in sight are elements of the page.
(() => {
  const MEANINGS = {
    visits: "simulations through the node, its own evaluation included",
    q: "what the step is worth: its reward, and the discounted value of where it leads",
    value: "present estimate of the return from here; 0 where the episode ended",
    "raw value": "what the model's value said when the node was made",
    prior: "probability that the policy gave this step",
    reward: "of the step into the node",
    discount: "weight of everything after the step",
    score: "discounted return of the path so far, its last state's value included",
    return: "discounted return of the whole future",
    depth: "steps from the root",
    slot: "which of the parent's candidates led here",
    candidate: "number of the future",
  };
  const COLOURS = {
    tree: ["q", "value", "score", "raw value", "prior", "reward"],
    rollout: ["return", "reward"],
  };
  const MAP_ROW = 26; // px of a level of the map, at most
  const MARGIN = { left: 54, right: 12, top: 10, bottom: 22 }; // px around the lines of a rollout

  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value !== null && value !== undefined) element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  };
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const range = (values) => {
    let [low, high] = [Infinity, -Infinity];
    for (const value of values) {
      if (!Number.isFinite(value)) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    return low > high ? [0, 0] : [low, high];
  };
  const shown = (value) => {
    if (Number.isNaN(value)) return "NaN";
    if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
    const size = Math.abs(value);
    const text =
      Number.isInteger(value) || size >= 1000
        ? Math.round(value).toLocaleString("en")
        : size && size < 1e-3
          ? value.toExponential(1)
          : value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : 3);
    return text.replace("-", "−");
  };

  // ------------------------------------------------------------------------------------------ data

  // One root: its columns as numbers, and what lies below what. The steps of a future hang side by
  // side under its first one, which stands for the whole.
  function load({ root, columns }, kind) {
    const { text, chosen, ...tables } = columns;
    const known = {};
    for (const [name, values] of Object.entries(tables)) {
      known[name.replace("_", " ")] = Float64Array.from(values, Number);
    }
    const size = text.length;
    const up = Int32Array.from(known.parent);
    const level = Int32Array.from(known.depth);
    delete known.parent;
    if (kind === "rollout") {
      known.return = Float64Array.from(known.score);
      for (let node = size - 1; node > 0; node--) {
        if (up[node] > 0) known.return[up[node]] = known.return[node];
      }
      for (let node = 1; node < size; node++) {
        level[node] = Math.min(level[node] - 1, 1);
        if (up[node] > 0 && up[up[node]] > 0) up[node] = up[up[node]];
      }
    }
    const below = Array.from({ length: size }, () => []);
    for (let node = 1; node < size; node++) below[up[node]].push(node);
    const deepest = level.reduce((most, each) => Math.max(most, each), 0);
    const tree = { root, kind, size, text, chosen, known, up, level, below, deepest };
    sortChildren(tree);
    return tree;
  }

  function sortChildren({ kind, known, below }) {
    const falling = (column) => (a, b) =>
      (Number.isNaN(column[a]) - Number.isNaN(column[b])) || column[b] - column[a] || 0;
    const byScore = falling(known.score);
    if (kind === "rollout") below[0].sort(falling(known.return));
    else {
      for (const children of below) {
        children.sort((a, b) => known.visits[b] - known.visits[a] || byScore(a, b));
      }
    }
  }

  // Whether the search passed what it found up to the nodes above, as tree search does and beams
  // do not.
  function backsUp({ known }) {
    return !known.value.every((each, node) => Object.is(each, known["raw value"][node]));
  }

  // Where each node lies across the map: [from, to] within [0, 1], in proportion to visits, or to
  // the nodes below where visits only say what was kept.
  function spread(tree) {
    const { size, known, up, below } = tree;
    let weight = known.visits;
    if (!backsUp(tree)) {
      weight = new Float64Array(size).fill(1);
      for (let node = size - 1; node > 0; node--) weight[up[node]] += weight[node];
    }
    const [from, to] = [new Float64Array(size), new Float64Array(size)];
    to[0] = 1;
    for (let node = 0; node < size; node++) {
      const inside = below[node].reduce((sum, child) => sum + weight[child], 0);
      const unit = (to[node] - from[node]) / Math.max(weight[node], inside, 1e-12);
      let place = from[node];
      for (const child of below[node]) {
        from[child] = place;
        place += weight[child] * unit;
        to[child] = place;
      }
    }
    return { from, to };
  }

  // `visits>=10`, `value<0.2`: a comparison; anything else: words in the text. A return is that of
  // a whole future, which its first step stands for.
  function matcher(tree, query) {
    const parts = /^\s*([a-z_ ]+?)\s*(<=|>=|<|>|=)\s*(-?[\d.]+(?:e-?\d+)?)\s*$/i.exec(query);
    const name = parts?.[1].toLowerCase().replace("_", " ");
    const column = tree.known[name];
    if (!column) {
      const wanted = query.toLowerCase();
      return (node) => tree.text[node].toLowerCase().includes(wanted);
    }
    const limit = Number(parts[3]);
    const holds = {
      "<": (x) => x < limit,
      ">": (x) => x > limit,
      "<=": (x) => x <= limit,
      ">=": (x) => x >= limit,
      "=": (x) => x === limit,
    }[parts[2]];
    const first = name === "return" ? (node) => tree.level[node] === 0 : () => true;
    return (node) => node > 0 && first(node) && holds(column[node]);
  }

  // ---------------------------------------------------------------------------------------- viewer

  class Viewer {
    constructor(element, number) {
      const data = JSON.parse(element.querySelector("script").textContent);
      this.element = element;
      this.name = `viewer-${number}`;
      this.kind = data.kind;
      this.roots = data.roots;
      element.classList.add(data.kind);
      element.replaceChildren(...this.build());
      this.listen();
      this.show(0);
    }

    // What the viewer consists of, from top to bottom.
    build() {
      this.query = make("input", {
        type: "search",
        placeholder: this.kind === "tree" ? "Search text, or visits>10" : "Search, or return>0.5",
        "aria-label": "Search",
        spellcheck: "false",
      });
      this.found = make("output", { class: "found", "aria-live": "polite" });
      this.map = make("canvas", { class: "map", "aria-hidden": "true" });
      this.back = this.button("Whole tree", "Zoom the map out", () => this.zoom(0));
      this.back.classList.add("back");
      this.legend = make("div", { class: "legend-line" });
      this.space = make("div", { class: "space", role: "presentation" });
      this.outline = make(
        "div",
        { class: "outline", role: "tree", tabindex: "0", "aria-label": "Nodes" },
        this.space,
      );
      this.details = make("aside", { class: "details", "aria-label": "Details of the node" });
      this.heads = make("div", { class: "heads", "aria-hidden": "true" });
      const overview = make("div", { class: "overview" }, this.map, this.back, this.legend);
      const list = make("div", { class: "list" }, this.heads, this.outline);
      return [
        this.tools(),
        overview,
        make("div", { class: "panes" }, list, this.details),
        this.keys(),
      ];
    }

    tools() {
      this.colours = make(
        "select",
        { "aria-label": "Show and colour by", onchange: (event) => this.paint(event.target.value) },
        ...COLOURS[this.kind].map((name) => make("option", { value: name }, `Show ${name}`)),
      );
      const search = make(
        "div",
        { class: "search" },
        this.query,
        this.found,
        this.button("↑", "Previous match", () => this.step(-1)),
        this.button("↓", "Next match", () => this.step(1)),
      );
      const folding = make(
        "div",
        { class: "buttons" },
        this.button("Chosen", "Show what the plan chose (p)", () => this.follow()),
        this.button("Open all", "Open every node", () => this.fold(1)),
        this.button("Fold all", "Fold every node", () => this.fold(0)),
        this.colours,
      );
      const chooser = this.roots.length > 1 ? [this.chooser()] : [];
      return make("div", { class: "tools" }, ...chooser, search, folding);
    }

    chooser() {
      this.choice = make("select", {
        class: "roots",
        "aria-label": "Root",
        onchange: (event) => this.show(Number(event.target.value)),
      });
      this.roots.forEach(({ root, columns }, place) => {
        const text = this.kind === "tree" ? ` · ${columns.text[0].slice(0, 60)}` : "";
        this.choice.append(make("option", { value: place }, `Root ${root}${text}`));
      });
      return this.choice;
    }

    keys() {
      const pairs = [
        ["↑ ↓", "move"], ["→ ←", "open, fold"], ["*", "open all below"], ["/", "search"],
        ["Enter", "next match"], ["p", "what was chosen"],
        ...(this.kind === "tree" ? [["z", "zoom the map"]] : []),
      ];
      const items = pairs.map(([key, does]) => make("span", {}, make("kbd", {}, key), ` ${does}`));
      return make("div", { class: "keys" }, ...items);
    }

    button(text, title, act) {
      const label = text.length > 1 ? null : title; // an arrow says too little
      return make("button", { type: "button", title, "aria-label": label, onclick: act }, text);
    }

    // The two columns of figures beside the rows.
    figures() {
      return this.kind === "tree" ? ["visits", this.colour] : ["reward", "return"];
    }

    // ---------------------------------------------------------------------------------- listening

    listen() {
      this.query.addEventListener("input", () => this.search(this.query.value));
      this.query.addEventListener("keydown", (event) => this.searchKey(event));
      this.outline.addEventListener("keydown", (event) => this.key(event));
      this.outline.addEventListener("scroll", () => this.later(), { passive: true });
      this.outline.addEventListener("click", (event) => this.click(event));
      this.outline.addEventListener("pointermove", (event) => this.hover(this.rowAt(event), event));
      this.outline.addEventListener("pointerleave", () => this.hover(null));
      this.map.addEventListener("pointermove", (event) => this.hover(this.onMap(event), event));
      this.map.addEventListener("pointerleave", () => this.hover(null));
      this.map.addEventListener("click", (event) => {
        const node = this.onMap(event);
        if (node !== null) this.reveal(node);
      });
      this.map.addEventListener("dblclick", (event) => {
        const node = this.onMap(event);
        if (node !== null) this.zoom(node);
      });
      new ResizeObserver(() => this.draw()).observe(this.element);
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    }

    key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const { tree, selected, open } = this;
      const place = this.rows.indexOf(selected);
      const inner = tree.below[selected].length > 0;
      const page = Math.max(1, Math.floor(this.outline.clientHeight / this.height) - 1);
      const go = (to) => this.select(this.rows[clamp(to, 0, this.rows.length - 1)]);
      const acts = {
        ArrowDown: () => go(place + 1),
        ArrowUp: () => go(place - 1),
        PageDown: () => go(place + page),
        PageUp: () => go(place - page),
        Home: () => go(0),
        End: () => go(this.rows.length - 1),
        ArrowRight: () => {
          if (inner && open[selected]) go(place + 1);
          else this.toggle(selected);
        },
        ArrowLeft: () => {
          if (inner && open[selected]) this.toggle(selected);
          else if (this.rows.includes(tree.up[selected])) this.select(tree.up[selected]);
        },
        Enter: () => {
          if (this.matches.length) this.step(event.shiftKey ? -1 : 1);
          else this.toggle(selected);
        },
        " ": () => this.toggle(selected),
        "*": () => this.openBelow(selected),
        "/": () => this.query.focus(),
        p: () => this.follow(),
        z: () => this.zoom(this.focus === selected ? 0 : selected),
        Escape: () => this.search(""),
      };
      if (!acts[event.key]) return;
      event.preventDefault();
      acts[event.key]();
    }

    searchKey(event) {
      if (event.key === "Enter") this.step(event.shiftKey ? -1 : 1);
      else if (event.key === "Escape") this.search("");
      else if (event.key !== "ArrowDown") return;
      if (event.key !== "Enter") this.outline.focus();
      event.preventDefault();
    }

    click(event) {
      const node = this.rowAt(event);
      if (node === null) return;
      if (node === this.selected || event.target.closest(".twist")) this.toggle(node);
      this.select(node);
    }

    rowAt(event) {
      const row = event.target.closest?.(".row");
      return row ? Number(row.dataset.node) : null;
    }

    // -------------------------------------------------------------------------------------- acting

    show(place) {
      this.tree = load(this.roots[place], this.kind);
      this.open = new Uint8Array(this.tree.size);
      if (this.kind === "tree") {
        this.across = spread(this.tree);
        this.weighed = backsUp(this.tree) ? "visits" : "nodes below";
        this.map.style.height = `min(var(--tall), ${(this.tree.deepest + 1) * MAP_ROW}px)`;
      }
      // Lines of a single step say no more than the bars of the rows.
      this.map.hidden = this.kind === "rollout" && range(this.tree.known.depth)[1] === 1;
      this.first = this.kind === "tree" ? 0 : this.tree.below[0][0]; // the uppermost row
      this.selected = this.first;
      this.focus = 0;
      this.hovered = this.detailed = null;
      this.matches = [];
      this.matching = new Set();
      this.before = null;
      if (this.choice) this.choice.value = place;
      this.paint(this.colour ?? this.guide());
      this.follow();
      if (this.query.value) this.search(this.query.value);
    }

    // Opens the chosen path and nothing else. Of futures the chosen one is marked, not unfolded.
    follow() {
      const { tree, open } = this;
      open.fill(0);
      if (this.kind === "tree") tree.chosen.forEach((chosen, node) => (open[node] = chosen));
      this.refresh();
      this.select(this.kind === "tree" ? 0 : tree.below[0].find((node) => tree.chosen[node]));
    }

    fold(state) {
      this.open.fill(state);
      this.refresh();
      this.select(this.selected);
    }

    toggle(node) {
      if (!this.tree.below[node].length) return;
      this.open[node] = this.open[node] ? 0 : 1;
      this.refresh();
    }

    openBelow(node) {
      const stack = [node];
      while (stack.length) {
        const next = stack.pop();
        this.open[next] = 1;
        stack.push(...this.tree.below[next]);
      }
      this.refresh();
    }

    openAbove(node) {
      for (let above = this.tree.up[node]; above >= 0; above = this.tree.up[above]) {
        this.open[above] = 1;
      }
    }

    select(node) {
      this.selected = node;
      const top = this.rows.indexOf(node) * this.height;
      const { scrollTop, clientHeight } = this.outline;
      const above = scrollTop - top;
      const under = top + this.height - scrollTop - clientHeight;
      if (Math.max(above, under) > 2 * this.height) {
        this.outline.scrollTop = top - (clientHeight - this.height) / 2;
      } else if (above > 0) this.outline.scrollTop = top;
      else if (under > 0) this.outline.scrollTop = scrollTop + under;
      this.draw();
    }

    reveal(node) {
      this.openAbove(node);
      this.refresh();
      this.select(node);
    }

    zoom(node) {
      if (this.kind !== "tree") return;
      this.focus = this.tree.below[node].length ? node : Math.max(0, this.tree.up[node]);
      this.draw();
    }

    paint(column) {
      this.colour = this.colours.value = column;
      this.limits = this.limitsOf(column);
      const [first, second] = this.figures();
      const head = (name, place) =>
        make("span", { class: `figure ${place}`, title: MEANINGS[name] }, name);
      this.heads.replaceChildren(
        make("span", {}, this.kind === "tree" ? "step" : "futures by their first step, best first"),
        head(first, "one"),
        head(second, "two"),
      );
      this.draw();
    }

    // There is no step into the root, and so no prior or reward.
    limitsOf(column) {
      const values = this.tree.known[column];
      return range(["prior", "reward", "return"].includes(column) ? values.subarray(1) : values);
    }

    // What a search went by: tree search by what it backed up, a beam by the score of the path.
    guide() {
      if (this.kind === "rollout") return "return";
      return backsUp(this.tree) ? "q" : "score";
    }

    hover(node, event) {
      if (event && event.pointerType !== "mouse") return;
      if (node === this.hovered) return;
      this.hovered = node;
      this.later(false);
    }

    // Opens the paths to all matches; an empty query brings back what was open before.
    search(query) {
      this.query.value = query;
      if (query.trim() === "") {
        if (this.before) this.open.set(this.before);
        [this.before, this.matches, this.matching] = [null, [], new Set()];
        this.found.value = "";
        this.openAbove(this.selected);
        this.refresh();
        return;
      }
      this.before ??= this.open.slice();
      this.open.set(this.before);
      const matches = matcher(this.tree, query);
      this.matching = new Set();
      for (let node = 0; node < this.tree.size; node++) if (matches(node)) this.matching.add(node);
      for (const node of this.matching) this.openAbove(node);
      this.refresh();
      this.matches = this.rows.filter((node) => this.matching.has(node));
      this.step(0);
    }

    step(by) {
      const { matches } = this;
      const here = matches.indexOf(this.selected);
      if (matches.length) {
        const next = here < 0 ? 0 : (here + by + matches.length) % matches.length;
        this.reveal(matches[next]);
        this.found.value = `${next + 1} of ${matches.length}`;
      } else {
        this.found.value = this.query.value.trim() ? "none" : "";
        this.draw();
      }
    }

    // The rows that are unfolded, from top to bottom.
    refresh() {
      this.rows = [];
      const stack = this.kind === "tree" ? [0] : [...this.tree.below[0]].reverse();
      while (stack.length) {
        const node = stack.pop();
        this.rows.push(node);
        if (!this.open[node]) continue;
        const children = this.tree.below[node];
        for (let i = children.length - 1; i >= 0; i--) stack.push(children[i]);
      }
      while (this.selected > 0 && !this.rows.includes(this.selected)) {
        this.selected = this.tree.up[this.selected];
      }
      if (this.kind === "rollout" && this.selected === 0) this.selected = this.first;
      this.draw();
    }

    // ------------------------------------------------------------------------------------- drawing

    draw() {
      if (!this.rows) return;
      const css = getComputedStyle(this.outline);
      this.height = parseFloat(css.getPropertyValue("--row"));
      this.ramp = readRamp(css.getPropertyValue("--ramp"));
      this.broken = css.getPropertyValue("--broken").trim();
      this.space.style.height = `${this.rows.length * this.height}px`;
      this.later();
    }

    // Draws with the next frame. Rows that stay as they are keep their elements, so that a click
    // that began on one ends on it.
    later(anew = true) {
      this.stale ||= anew;
      this.element.setAttribute("aria-busy", "true");
      this.pending ??= requestAnimationFrame(() => {
        this.pending = null;
        if (this.stale) this.drawRows();
        this.stale = false;
        for (const row of this.space.children) {
          row.classList.toggle("hovered", Number(row.dataset.node) === this.hovered);
        }
        this.drawDetails(this.hovered ?? this.selected);
        this.drawLegend();
        if (this.kind === "tree") this.drawMap();
        else if (!this.map.hidden) this.drawLines();
        this.element.setAttribute("aria-busy", "false");
      });
    }

    colourOf(node) {
      const value = this.tree.known[this.colour][node];
      if (!Number.isFinite(value)) return this.broken;
      const [low, high] = this.limits;
      const part = high > low ? clamp((value - low) / (high - low), 0, 1) : 0.5;
      return this.ramp[Math.round(part * (this.ramp.length - 1))];
    }

    drawRows() {
      const first = Math.max(0, Math.floor(this.outline.scrollTop / this.height) - 4);
      const number = Math.ceil(this.outline.clientHeight / this.height) + 8;
      const sight = this.rows.slice(first, first + number);
      const deepest = Math.max(1, ...sight.map((node) => this.tree.level[node]));
      const indent = clamp((0.4 * this.outline.clientWidth) / deepest, 3, 18);
      this.space.style.setProperty("--indent", `${indent}px`);
      this.space.replaceChildren(...sight.map((node, i) => this.row(node, first + i)));
      const active = sight.includes(this.selected) ? `${this.name}-${this.selected}` : "";
      this.outline.setAttribute("aria-activedescendant", active);
    }

    row(node, place) {
      const { tree, open } = this;
      const inner = tree.below[node].length;
      const siblings = node ? tree.below[tree.up[node]] : [0];
      const classes = ["row"];
      if (tree.chosen[node]) classes.push("chosen");
      if (node === this.selected) classes.push("selected");
      if (this.matching.has(node)) classes.push("match");
      const row = make(
        "div",
        {
          class: classes.join(" "),
          id: `${this.name}-${node}`,
          role: "treeitem",
          "data-node": node,
          "aria-level": tree.level[node] + 1,
          "aria-setsize": siblings.length,
          "aria-posinset": siblings.indexOf(node) + 1,
          "aria-selected": node === this.selected,
          "aria-expanded": inner ? Boolean(open[node]) : null,
        },
        make("span", { class: "indent" }),
        make("span", { class: inner ? "twist" : "twist leaf", "aria-hidden": "true" }),
        make("span", { class: "text" }, ...this.highlighted(tree.text[node])),
        ...this.cells(node),
      );
      row.style.top = `${place * this.height}px`;
      row.style.setProperty("--level", tree.level[node]);
      return row;
    }

    cells(node) {
      const { tree, kind } = this;
      const [first, second] = this.figures();
      const soFar = kind === "rollout" && tree.level[node] > 0;
      const bar = make("i", { class: "bar" }, make("i"));
      const share = this.share(node);
      bar.firstChild.style.width = share > 0 ? `max(2px, ${100 * share}%)` : 0;
      bar.firstChild.style.background = this.colourOf(node);
      const cell = (name, place) =>
        make("span", { class: `figure ${place}` }, shown(tree.known[name][node]));
      return [bar, cell(first, "one"), cell(soFar ? "score" : second, "two")];
    }

    // How long the bar of a row is: visits out of the root's, or where the return lies in the range
    // of all returns.
    share(node) {
      const { known } = this.tree;
      if (this.kind === "tree") return clamp(known.visits[node] / known.visits[0], 0, 1);
      const [low, high] = this.limitsOf("return");
      const share = (known.return[node] - low) / (high - low);
      return Number.isFinite(share) ? clamp(share, 0, 1) : 0;
    }

    highlighted(text) {
      const query = this.query.value.trim().toLowerCase();
      const place = query && this.matching.size ? text.toLowerCase().indexOf(query) : -1;
      if (place < 0) return [text];
      const end = place + query.length;
      return [text.slice(0, place), make("mark", {}, text.slice(place, end)), text.slice(end)];
    }

    drawDetails(node) {
      if (node === this.detailed) return;
      this.detailed = node;
      const { tree } = this;
      const badges = [];
      const marked = this.kind === "tree" ? "chosen path" : "chosen future";
      if (tree.chosen[node]) badges.push(make("span", { class: "badge chosen" }, marked));
      if (node && tree.known.discount[node] === 0) {
        badges.push(make("span", { class: "badge" }, "the episode ends here"));
      }
      const facts = make("dl", {});
      for (const [name, value] of this.facts(node)) {
        facts.append(make("dt", { title: MEANINGS[name] }, name), make("dd", {}, value));
      }
      const length = tree.text[node].length > 120 ? "whole long" : "whole";
      const parts = [make("p", { class: length }, tree.text[node]), facts];
      if (badges.length) parts.splice(1, 0, make("p", { class: "badges" }, ...badges));
      const path = this.path(node);
      if (path.length > 1) {
        const steps = path.map((step) => {
          const link = this.button(tree.text[step], "Go to this node", () => this.reveal(step));
          return make("li", step === node ? { "aria-current": "true" } : {}, link);
        });
        parts.push(make("h2", {}, "Path"), make("ol", { class: "path" }, ...steps));
      }
      this.details.replaceChildren(...parts);
    }

    facts(node) {
      const { tree, kind } = this;
      const facts = [];
      for (const name of Object.keys(tree.known)) {
        const edge = ["slot", "prior", "reward", "discount"].includes(name);
        if (node === 0 && edge) continue;
        facts.push([name, shown(tree.known[name][node])]);
      }
      if (kind === "tree" && node && tree.known.visits[tree.up[node]] > 1) {
        const share = tree.known.visits[node] / tree.known.visits[tree.up[node]];
        facts.push(["share of parent", `${Math.round(100 * share)}%`]);
      }
      if (tree.below[node].length) {
        const what = kind === "tree" ? "children" : "further steps";
        facts.push([what, shown(tree.below[node].length)]);
      }
      facts.push(["node", String(node)]);
      return facts;
    }

    // From the root's child to the node; of a future all steps up to it.
    path(node) {
      const { tree, kind } = this;
      if (kind === "rollout") {
        const head = tree.up[node] || node;
        return [head, ...tree.below[head].filter((step) => step <= node)];
      }
      const path = [];
      for (let step = node; step > 0; step = tree.up[step]) path.unshift(step);
      return path;
    }

    drawLegend() {
      const { tree } = this;
      const scale = make("i", { class: "scale", "aria-hidden": "true" });
      scale.style.background = `linear-gradient(90deg, ${this.ramp.join(", ")})`;
      const [low, high] = this.limits.map(shown);
      const [, deepest] = range(tree.known.depth);
      const size =
        this.kind === "tree"
          ? `${shown(tree.size)} nodes, ${shown(deepest)} deep`
          : `${shown(tree.below[0].length)} futures of at most ${deepest} steps`;
      this.legend.replaceChildren(
        make("span", {}, size),
        ...(this.kind === "tree" ? [make("span", {}, `width: ${this.weighed}`)] : []),
        make("span", { class: "key" }, `${this.colour} ${low} `, scale, ` ${high}`),
      );
      this.back.hidden = this.focus === 0;
    }

    // ------------------------------------------------------------------------------ map of a tree

    canvas() {
      const scale = devicePixelRatio || 1;
      const { clientWidth: width, clientHeight: height } = this.map;
      this.map.width = Math.round(width * scale);
      this.map.height = Math.round(height * scale);
      const context = this.map.getContext("2d");
      context.scale(scale, scale);
      context.font = "11px system-ui, sans-serif";
      const css = getComputedStyle(this.map);
      const ink = (name) => css.getPropertyValue(`--${name}`).trim();
      return { context, width, height, ink };
    }

    // Depth of a map row, and from [0, 1] across the whole tree to pixels of what is zoomed to.
    frame(width, height) {
      const { tree, across, focus } = this;
      const top = tree.level[focus];
      const unit = width / (across.to[focus] - across.from[focus]);
      const x = (part) => (part - across.from[focus]) * unit;
      return { top, row: Math.min(height / (tree.deepest - top + 1), MAP_ROW), x, unit };
    }

    drawMap() {
      const { context, width, height, ink } = this.canvas();
      const { top, row, x } = this.frame(width, height);
      const { tree, across } = this;
      const gap = row > 6 ? 1 : 0;
      const stack = [this.focus];
      while (stack.length) {
        const node = stack.pop();
        const left = x(across.from[node]);
        const wide = x(across.to[node]) - left;
        if (wide < 0.02) continue;
        const y = (tree.level[node] - top) * row;
        context.fillStyle = this.colourOf(node);
        context.fillRect(left, y, Math.max(wide - (wide > 3 ? 1 : 0), 0.6), row - gap);
        if (row >= 16 && wide > 64) this.label(context, node, left, y, wide, row);
        stack.push(...tree.below[node]);
      }
      const edge = (node, colour, line) => {
        const left = x(across.from[node]);
        const wide = Math.max(x(across.to[node]) - left - 1, 2);
        context.strokeStyle = colour;
        context.lineWidth = line;
        const y = (tree.level[node] - top) * row;
        context.strokeRect(left + line / 2, y + line / 2, wide - line, row - gap - line);
      };
      for (let node = 0; node < tree.size; node++) {
        if (tree.level[node] < top) continue;
        if (this.matching.has(node)) edge(node, ink("mark"), 2);
        else if (tree.chosen[node]) edge(node, ink("accent"), 2);
      }
      for (const node of [this.hovered, this.selected]) {
        if (node !== null && tree.level[node] >= top) edge(node, ink("ink"), 2);
      }
    }

    label(context, node, left, y, wide, row) {
      context.save();
      context.beginPath();
      context.rect(left, y, wide - 6, row);
      context.clip();
      context.fillStyle = isLight(context.fillStyle) ? "#14171b" : "#ffffff";
      context.textBaseline = "middle";
      context.fillText(this.tree.text[node].slice(0, 200), left + 6, y + row / 2);
      context.restore();
    }

    onMap(event) {
      const box = this.map.getBoundingClientRect();
      const [px, py] = [event.clientX - box.left, event.clientY - box.top];
      if (this.kind === "rollout") return this.nearest(px, py, box);
      const { tree, across, focus } = this;
      const { row, unit } = this.frame(box.width, box.height);
      const part = across.from[focus] + px / unit;
      let node = focus;
      for (let down = Math.floor(py / row); down > 0; down--) {
        const inside = tree.below[node].find((c) => across.from[c] <= part && part < across.to[c]);
        if (inside === undefined) return null;
        node = inside;
      }
      return node;
    }

    // -------------------------------------------------------------------------- lines of a rollout

    axes(width, height) {
      const { known } = this.tree;
      const [low, high] = range(known.score);
      const [, last] = range(known.depth);
      const pad = 0.04 * (high - low) || 1;
      const tall = height - MARGIN.top - MARGIN.bottom;
      const wide = width - MARGIN.left - MARGIN.right;
      const x = (step) => MARGIN.left + (wide * step) / Math.max(last, 1);
      const y = (value) => MARGIN.top + tall * (1 - (value - low + pad) / (high - low + 2 * pad));
      return { x, y, low, high, last };
    }

    drawLines() {
      const { context, width, height, ink } = this.canvas();
      const axes = this.axes(width, height);
      const { tree } = this;
      this.drawAxes(context, axes, width, ink);
      const heads = tree.below[0];
      const faint = clamp(24 / heads.length, 0.12, 0.85);
      const top = tree.up[this.hovered ?? this.selected] || (this.hovered ?? this.selected);
      for (const head of [...heads].reverse()) {
        context.globalAlpha = this.matching.size && !this.touches(head) ? 0.04 : faint;
        this.line(context, axes, head, this.colourOf(head), 1.2);
      }
      context.globalAlpha = 1;
      for (const head of heads) {
        if (tree.chosen[head]) this.line(context, axes, head, ink("accent"), 2.4);
      }
      if (top > 0) this.line(context, axes, top, ink("ink"), 2.4);
    }

    // Whether a step of a future matches the search.
    touches(head) {
      return [head, ...this.tree.below[head]].some((node) => this.matching.has(node));
    }

    drawAxes(context, { x, y, low, high, last }, width, ink) {
      context.strokeStyle = ink("rule");
      context.fillStyle = ink("soft");
      context.textBaseline = "middle";
      context.textAlign = "right";
      const levels = low < 0 && high > 0 ? [low, 0, high] : [low, high];
      const clear = (value) => value === 0 || Math.abs(y(value) - y(0)) > 14;
      const apart = levels.includes(0) ? levels.filter(clear) : levels;
      for (const value of apart) {
        context.beginPath();
        context.moveTo(MARGIN.left, Math.round(y(value)) + 0.5);
        context.lineTo(width - MARGIN.right, Math.round(y(value)) + 0.5);
        context.stroke();
        context.fillText(shown(value), MARGIN.left - 8, y(value));
      }
      context.textBaseline = "alphabetic";
      const every = Math.max(1, Math.ceil((36 * last) / Math.max(x(last) - x(0), 1)));
      for (let step = 0; step <= last; step += every) {
        context.textAlign = step === last ? "right" : "center";
        context.fillText(step === 0 ? "step 0" : String(step), x(step), y(low) + 22);
      }
      context.textAlign = "left";
    }

    line(context, { x, y }, head, colour, thick) {
      const { known, below } = this.tree;
      context.strokeStyle = colour;
      context.lineWidth = thick;
      context.lineJoin = "round";
      context.beginPath();
      context.moveTo(x(0), y(0));
      for (const node of [head, ...below[head]]) {
        if (!Number.isFinite(known.score[node])) break;
        context.lineTo(x(known.depth[node]), y(known.score[node]));
      }
      context.stroke();
    }

    nearest(px, py, box) {
      const { known, size } = this.tree;
      const { x, y } = this.axes(box.width, box.height);
      let [best, least] = [null, 24 ** 2];
      for (let node = 1; node < size; node++) {
        const away = (x(known.depth[node]) - px) ** 2 + (y(known.score[node]) - py) ** 2;
        if (away < least) [best, least] = [node, away];
      }
      return best;
    }
  }

  // --------------------------------------------------------------------------------------- colours

  const channels = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

  // From "#rrggbb #rrggbb ..." to 65 colours between the given ones.
  function readRamp(text) {
    const stops = text.trim().split(/\s+/).map(channels);
    return Array.from({ length: 65 }, (_, i) => {
      const place = (i / 64) * (stops.length - 1);
      const left = Math.min(Math.floor(place), stops.length - 2);
      const mixed = stops[left].map((c, k) => c + (place - left) * (stops[left + 1][k] - c));
      return `#${mixed.map((c) => Math.round(c).toString(16).padStart(2, "0")).join("")}`;
    });
  }

  const isLight = (hex) => {
    const [red, green, blue] = channels(hex);
    return 0.299 * red + 0.587 * green + 0.114 * blue > 140;
  };

  // ----------------------------------------------------------------------------------------- start

  const viewers = [...document.querySelectorAll(".viewer")].map((e, i) => new Viewer(e, i));

  // On a page of its own the address says what to show: #root=1&q=text&node=7&open=all
  function obey(viewer) {
    const wishes = new URLSearchParams(location.hash.slice(1));
    const root = viewer.roots.findIndex((each) => each.root === Number(wishes.get("root") ?? NaN));
    if (root >= 0) viewer.show(root);
    if (wishes.get("open") === "all") viewer.fold(1);
    if (wishes.has("q")) viewer.search(wishes.get("q"));
    const node = Number(wishes.get("node") ?? NaN);
    if (Number.isInteger(node) && node >= 0 && node < viewer.tree.size) viewer.reveal(node);
  }
  if (document.body.classList.contains("viewer-page")) {
    for (const viewer of viewers) {
      obey(viewer);
      addEventListener("hashchange", () => obey(viewer));
    }
  }
})();
