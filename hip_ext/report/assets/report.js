// Brings a report to life: each section with scenes gets a view, and plots and lists choose what it shows.

const CALM = matchMedia("(prefers-reduced-motion: reduce)");
const SWINGS = 0.9, STEPS = 9; // periods and frames a second

class Stage {
  constructor(section) {
    this.section = section;
    this.scenes = JSON.parse(section.querySelector(".scenes").textContent).map(unpacked);
    everBonded(this.scenes);
    const get = (name) => section.querySelector(`.stage ${name}`);
    this.parts = Object.fromEntries(
      ["caption", "index", "play", "back", "next", "amplitude", "arrows", "labels", "reset", "measured"].map((name) => [name, get(`.${name}`)])
    );
    this.parts.measure = get("input.measure");
    this.canvas = get("canvas");
    this.viewer = new Viewer(this.canvas);
    this.way = 1;
    this.wire();
    this.show(0, this.scenes[0].start);
    this.play(!CALM.matches && this.scenes[0].vectors !== null);
    new IntersectionObserver(([entry]) => { this.seen = entry.isIntersecting; this.run(); }).observe(this.canvas);
  }

  wire() {
    const { parts, section, viewer } = this;
    parts.index.addEventListener("input", () => this.show(this.scene, Number(parts.index.value)));
    parts.back.addEventListener("click", () => this.step(-1));
    parts.next.addEventListener("click", () => this.step(1));
    parts.play.addEventListener("click", () => this.play(!this.playing));
    parts.reset.addEventListener("click", () => viewer.reset());
    const set = () => {
      viewer.amplitude = Number(parts.amplitude.value);
      viewer.arrows = parts.arrows.checked;
      viewer.labels = parts.labels.checked;
      viewer.draw();
    };
    for (const name of ["amplitude", "arrows", "labels"]) parts[name].addEventListener("input", set);
    set();
    viewer.picked = (atoms) => { parts.measure.value = atoms.map((i) => i + 1).join(" "); this.measured(); };
    parts.measure.addEventListener("input", () => {
      const typed = (parts.measure.value.match(/\d+/g) ?? []).map((word) => Number(word) - 1);
      viewer.mark([...new Set(typed)].filter((i) => i >= 0).slice(0, 4));
      this.measured();
    });
    for (const radio of section.querySelectorAll(".choice input")) {
      radio.addEventListener("change", () => this.show(Number(radio.value), this.scenes[radio.value].at ?? this.scenes[radio.value].start));
    }
    for (const chooser of section.querySelectorAll(".chooser")) this.wireChooser(chooser);
    for (const row of section.querySelectorAll(".list tbody tr")) {
      const button = row.querySelector("button");
      if (button) row.addEventListener("click", () => this.show(Number(button.dataset.scene), Number(button.dataset.index), true));
    }
    for (const map of section.querySelectorAll(".map")) wireMap(map, viewer);
    this.canvas.addEventListener("keydown", (event) => {
      if (event.key !== " ") return;
      this.play(!this.playing);
      event.preventDefault();
    });
  }

  // A plot whose marks choose: the nearest one to a click, the next one by an arrow key.
  wireChooser(chooser) {
    const options = [...chooser.querySelectorAll("[role=option]")], scene = Number(chooser.dataset.scene);
    const choose = (option) => option && this.show(scene, Number(option.dataset.index), true);
    chooser.addEventListener("click", (event) => {
      const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(chooser.getScreenCTM().inverse());
      const gap = (option) => Math.hypot(option.dataset.x - place.x, 0.05 * (option.dataset.y - place.y));
      choose(options.reduce((best, option) => (!best || gap(option) < gap(best) ? option : best), null));
    });
    chooser.addEventListener("keydown", (event) => {
      const here = options.findIndex((option) => option.classList.contains("on"));
      const to = {
        ArrowRight: here + 1, ArrowDown: here + 1, ArrowLeft: here < 0 ? 0 : here - 1, ArrowUp: here < 0 ? 0 : here - 1,
        Home: 0, End: options.length - 1,
      }[event.key];
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (to !== undefined) choose(options[Math.max(0, Math.min(options.length - 1, to))]);
      else if (event.key === "Enter" || event.key === " ") this.play(!this.playing);
      else return;
      event.preventDefault();
    });
  }

  show(number, index, chosen = false) {
    const scene = this.scenes[number], { parts, viewer, section } = this, last = scene.captions.length - 1;
    this.scene = number;
    this.index = scene.at = Math.max(0, Math.min(last, index));
    viewer.show(scene, this.index);
    parts.caption.textContent = scene.captions[this.index];
    parts.index.max = last;
    parts.index.value = this.index;
    parts.index.setAttribute("aria-valuetext", scene.captions[this.index]);
    parts.amplitude.closest("label").hidden = parts.arrows.closest("label").hidden = !scene.vectors;
    parts.play.closest(".steps").hidden = !scene.vectors && last === 0;
    const radio = section.querySelector(`.choice input[value="${number}"]`);
    if (radio) radio.checked = true;
    this.mark();
    this.measured();
    if (chosen && scene.vectors && !CALM.matches) this.play(true);
    else if (chosen && !scene.vectors) this.play(false);
  }

  // Shows in plots and lists what is in the view.
  mark() {
    const { section, scene, index } = this;
    for (const chooser of section.querySelectorAll(".chooser")) {
      const dot = chooser.querySelector(".dot");
      chooser.removeAttribute("aria-activedescendant");
      for (const option of chooser.querySelectorAll("[role=option]")) {
        const on = Number(chooser.dataset.scene) === scene && Number(option.dataset.index) === index;
        option.classList.toggle("on", on);
        option.setAttribute("aria-selected", on);
        if (!on) continue;
        chooser.setAttribute("aria-activedescendant", option.id);
        if (dot) for (const axis of ["x", "y"]) dot.setAttribute(`c${axis}`, option.dataset[axis]);
      }
    }
    for (const button of section.querySelectorAll(".list button")) {
      const on = Number(button.dataset.scene) === scene && Number(button.dataset.index) === index, row = button.closest("tr");
      if (on && !row.classList.contains("on")) scrollTo(row, row.closest(".scroll"));
      row.classList.toggle("on", on);
      button.setAttribute("aria-pressed", on);
    }
  }

  measured() {
    const { viewer, parts } = this, atoms = viewer.marked;
    parts.measured.textContent = atoms.length
      ? measure(viewer.base, viewer.scene.names, atoms) : "or pick two to four in the view";
  }

  step(by) {
    const count = this.scenes[this.scene].captions.length;
    this.show(this.scene, (this.index + by + count) % count);
  }

  play(on) {
    this.playing = on;
    this.parts.play.textContent = on ? "Stop" : "Play";
    this.parts.play.setAttribute("aria-pressed", on);
    if (!on && this.viewer.vector) { this.viewer.phase = 0; this.viewer.draw(); }
    this.run();
  }

  // One loop, only while something plays that can be seen.
  run() {
    if (this.frame || !this.playing || !this.seen) return;
    let before = performance.now(), held = 0;
    const tick = (now) => {
      this.frame = null;
      if (!this.playing || !this.seen) return;
      const passed = Math.min(0.1, (now - before) / 1000);
      before = now;
      if (this.viewer.vector) {
        this.viewer.phase += 2 * Math.PI * SWINGS * passed;
        this.viewer.draw();
      } else if ((held += passed) > 1 / STEPS) {
        held = 0;
        const last = this.scenes[this.scene].captions.length - 1;
        if (this.index + this.way > last || this.index + this.way < 0) this.way = -this.way;
        if (last) this.show(this.scene, this.index + this.way);
      }
      this.frame = requestAnimationFrame(tick);
    };
    this.frame = requestAnimationFrame(tick);
  }
}

// A map of a Hessian: a block is read by pointing or by arrow keys, and its atoms are marked in the view.
function wireMap(map, viewer) {
  const { names: told, size: wide, edge: start, entries, norms, positions } = map.dataset;
  const names = told.split(" "), n = names.length, size = Number(wide), edge = Number(start);
  const cross = map.querySelector(".cross"), readout = map.parentElement.querySelector(".readout");
  const values = entries ? floats(entries) : norms ? floats(norms) : null, at = positions ? floats(positions) : null;
  let [row, column] = [0, 0];
  const read = (i, j) => {
    [row, column] = [i, j].map((k) => Math.max(0, Math.min(n - 1, k)));
    cross.setAttribute("x", edge + column * size);
    cross.setAttribute("y", edge + row * size);
    const said = [`${names[row]} – ${names[column]}`];
    if (at && row !== column) said.push(`${distance(at, row, column).toFixed(2)} Å apart`);
    if (norms) said.push(`norm ${shown(values[row * n + column])} eV/Å²`);
    let lines = said.join(", ");
    if (entries) {
      for (let a = 0; a < 3; a++) lines += `\n${[0, 1, 2].map((b) => shown(values[(3 * row + a) * 3 * n + 3 * column + b]).padStart(10)).join(" ")}`;
    }
    readout.textContent = lines;
    if (viewer && viewer.scene.n === n) viewer.mark(row === column ? [row] : [row, column]);
  };
  const point = (event) => {
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(map.getScreenCTM().inverse());
    const [i, j] = [place.y, place.x].map((x) => Math.floor((x - edge) / size));
    if (i >= 0 && j >= 0 && i < n && j < n) read(i, j);
  };
  map.addEventListener("pointermove", point);
  map.addEventListener("click", point);
  map.addEventListener("keydown", (event) => {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
    read(row + by[0], column + by[1]);
    event.preventDefault();
  });
}

function unpacked(scene) {
  const vectors = scene.vectors === undefined ? null : Float32Array.from(new Int16Array(bytes(scene.vectors)), (x) => x / 32767);
  return { ...scene, positions: floats(scene.positions), vectors };
}

const bytes = (text) => Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0)).buffer;
const floats = (text) => new Float32Array(bytes(text));
const shown = (x) => (Number.isFinite(x) ? x.toFixed(4).replace("-", "−") : "not a number");

function scrollTo(row, box) {
  const [a, b] = [row.getBoundingClientRect(), box.getBoundingClientRect()];
  const head = box.querySelector("thead").offsetHeight;
  if (a.top < b.top + head) box.scrollTop += a.top - b.top - head;
  else if (a.bottom > b.bottom) box.scrollTop += a.bottom - b.bottom;
}

const stages = [...document.querySelectorAll("section")].filter((one) => one.querySelector(".scenes")).map((one) => new Stage(one));
for (const map of document.querySelectorAll(".map")) if (!map.closest("section").querySelector(".scenes")) wireMap(map, null);
for (const query of ["(prefers-color-scheme: dark)", "print"]) {
  matchMedia(query).addEventListener("change", () => { for (const one of stages) { one.viewer.sprites.clear(); one.viewer.draw(); } });
}
