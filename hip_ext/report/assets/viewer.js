// A ball-and-stick view on a 2D canvas: everything is sorted by depth and drawn from behind to the front.
// It needs no WebGL, so it also works in remote sessions, in old phones and on paper.

"use strict";

const BOND = 0.11, BALL = 0.42, FULL = 1.3, WEAK = 1.75; // Å; share of the covalent radius; bond limits in radii sums
const TURN = Math.PI / 36;

class Viewer {
  constructor(canvas) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d");
    this.sprites = new Map();
    this.zoom = 1;
    this.turn = null;
    this.arrows = false;
    this.labels = false;
    this.amplitude = 0.4;
    this.phase = 0;
    this.marked = [];
    this.picked = () => {};
    this.listen();
  }

  // Puts a scene on the stage: frame `index`, or mode `index` of its only frame.
  show(scene, index) {
    const other = scene !== this.scene;
    this.scene = scene;
    this.base = scene.positions.subarray(...(scene.vectors ? [0, 3 * scene.n] : span(index, scene.n)));
    this.vector = scene.vectors ? scene.vectors.subarray(...span(index, scene.n)) : null;
    this.turn ??= scene.turn.slice();
    if (other) { this.phase = 0; this.marked = this.marked.filter((i) => i < scene.n); }
    this.bonds = bonds(scene, this.base);
    this.draw();
  }

  // Where the atoms are now, Å.
  now() {
    if (!this.vector) return this.base;
    const shift = this.amplitude * Math.sin(this.phase), at = new Float32Array(this.base);
    for (let k = 0; k < at.length; k++) at[k] += shift * this.vector[k];
    return at;
  }

  reset() {
    this.turn = this.scene.turn.slice();
    this.zoom = 1;
    this.draw();
  }

  rotate(right, down) {
    const [a, b, c, d] = [Math.cos(right), Math.sin(right), Math.cos(down), Math.sin(down)];
    this.turn = times([a, 0, b, d * b, c, -d * a, -c * b, d, c * a], this.turn);
    this.draw();
  }

  scaleBy(factor) {
    this.zoom = Math.min(12, Math.max(0.2, this.zoom * factor));
    this.draw();
  }

  // Pixels from Å, with a mild perspective; z points at the reader.
  project(at) {
    const { scene, turn: t, canvas } = this, [w, h] = [canvas.width, canvas.height];
    const [a, b, c] = scene.extent, far = 5 * Math.hypot(a, b, c) + 5;
    this.scale = this.zoom * Math.min(w / (2 * a + 2), h / (2 * b + 2));
    const points = new Array(at.length / 3);
    for (let i = 0; i < points.length; i++) {
      const [x, y, z] = [0, 1, 2].map((k) => at[3 * i + k] - scene.centre[k]);
      const depth = t[6] * x + t[7] * y + t[8] * z, near = far / Math.max(far - depth, far / 9), size = this.scale * near;
      points[i] = [
        w / 2 + size * (t[0] * x + t[1] * y + t[2] * z), h / 2 - size * (t[3] * x + t[4] * y + t[5] * z), depth, size,
      ];
    }
    return points;
  }

  draw() {
    const { pen, scene, canvas } = this;
    if (!scene || !canvas.width) return;
    const style = getComputedStyle(canvas);
    this.paper = rgb(style.getPropertyValue("--paper"));
    this.ink = style.getPropertyValue("--ink");
    this.accent = style.getPropertyValue("--accent");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    const at = this.now(), points = this.points = this.project(at);
    const depths = points.map((p) => p[2]);
    this.front = Math.max(...depths);
    this.depth = Math.max(this.front - Math.min(...depths), 3);
    const items = points.map((p, i) => [p[2], () => this.ball(p, i)]);
    for (const [i, j, weak] of this.bonds) items.push(...this.stick(at, points, i, j, weak));
    if (scene.cell) items.push(...this.box());
    if (this.arrows && this.vector) items.push(...this.pointers(at, points));
    items.sort((p, q) => p[0] - q[0]);
    for (const item of items) item[1]();
    for (const i of this.marked) this.ring(points[i], scene.radii[i] * BALL * points[i][3] + 4);
    if (this.labels) points.forEach((p, i) => this.text(p, scene.names[i]));
  }

  fog(colour, depth) {
    const share = 0.5 * Math.max(0, Math.min(1, (this.front - depth) / this.depth)) ** 1.3;
    return mix(colour, this.paper, Math.round(share * 16) / 16);
  }

  ball([x, y, z, size], i) {
    const r = this.scene.radii[i] * BALL * size;
    this.pen.drawImage(this.sprite(this.fog(this.scene.colours[i], z)), x - r, y - r, 2 * r, 2 * r);
  }

  // A shaded ball of one colour, drawn once and scaled afterwards.
  sprite(colour) {
    const key = colour.join();
    if (!this.sprites.has(key)) {
      if (this.sprites.size > 400) this.sprites.clear();
      const one = document.createElement("canvas"), pen = one.getContext("2d"), r = 64;
      one.width = one.height = 2 * r;
      const light = pen.createRadialGradient(0.7 * r, 0.6 * r, 0.05 * r, r, r, r);
      light.addColorStop(0, css(mix(colour, [255, 255, 255], 0.85)));
      light.addColorStop(0.18, css(mix(colour, [255, 255, 255], 0.4)));
      light.addColorStop(0.5, css(colour));
      light.addColorStop(0.85, css(mix(colour, [0, 0, 0], 0.35)));
      light.addColorStop(1, css(mix(colour, [0, 0, 0], 0.62)));
      pen.fillStyle = light;
      pen.arc(r, r, r - 0.5, 0, 2 * Math.PI);
      pen.fill();
      this.sprites.set(key, one);
    }
    return this.sprites.get(key);
  }

  // Two halves of a bond, each in the colour of its atom, from the surface of the ball to the middle.
  stick(at, points, i, j, weak) {
    const halves = [], length = distance(at, i, j);
    for (const [from, to] of [[i, j], [j, i]]) {
      const p = points[from], q = points[to], ball = this.scene.radii[from] * BALL;
      const start = Math.min(0.5, Math.sqrt(Math.max(ball * ball - BOND * BOND, 0)) / length);
      const a = between(p, q, start), b = between(p, q, 0.5), tilt = Math.abs(q[2] - p[2]) / length;
      halves.push([(a[2] + b[2]) / 2, () => this.rod(a, b, tilt, this.fog(this.scene.colours[from], a[2]), weak)]);
    }
    return halves;
  }

  rod(a, b, tilt, colour, weak) {
    const { pen } = this, angle = Math.atan2(b[1] - a[1], b[0] - a[0]);
    const [s, c] = [Math.sin(angle), Math.cos(angle)], wide = BOND * (weak ? 0.45 : 1);
    const [ra, rb] = [wide * a[3], wide * b[3]];
    const light = pen.createLinearGradient(a[0] + s * ra, a[1] - c * ra, a[0] - s * ra, a[1] + c * ra);
    const edge = css(mix(colour, [0, 0, 0], 0.55)), middle = css(mix(colour, [255, 255, 255], 0.35));
    const turned = c < 0 ? 0.65 : 0.35; // the light stays above
    light.addColorStop(0, edge);
    light.addColorStop(turned, middle);
    light.addColorStop(0.5, css(colour));
    light.addColorStop(1, edge);
    pen.fillStyle = light;
    const pieces = weak ? [[0, 0.2], [0.4, 0.6], [0.8, 1]] : [[0, 1]];
    for (const [from, to] of pieces) {
      const p = between(a, b, from), q = between(a, b, to);
      pen.beginPath();
      pen.ellipse(p[0], p[1], ra * tilt, ra, angle, Math.PI / 2, 1.5 * Math.PI);
      pen.ellipse(q[0], q[1], rb * tilt, rb, angle, -Math.PI / 2, Math.PI / 2);
      pen.closePath();
      pen.fill();
    }
  }

  // Where each atom goes, in the accent colour, from the surface of its ball.
  pointers(at, points) {
    const { scene, vector } = this, tips = new Float32Array(at), items = [];
    const sizes = points.map((_, i) => Math.hypot(...vector.subarray(3 * i, 3 * i + 3)));
    const balls = scene.radii.map((radius) => radius * BALL);
    for (let k = 0; k < tips.length; k++) {
      const i = Math.floor(k / 3);
      if (sizes[i] > 0) tips[k] += vector[k] * (1.2 + balls[i] / sizes[i]);
    }
    this.project(tips).forEach((q, i) => {
      const p = points[i], length = 1.2 * sizes[i] + balls[i];
      if (sizes[i] < 0.12) return;
      items.push([(p[2] + q[2]) / 2 + 0.05, () => this.arrow(between(p, q, balls[i] / length), q)]);
    });
    return items;
  }

  arrow(a, b) {
    const { pen } = this, angle = Math.atan2(b[1] - a[1], b[0] - a[0]), head = 0.16 * b[3];
    pen.strokeStyle = pen.fillStyle = this.accent;
    pen.lineWidth = 0.07 * b[3];
    pen.beginPath();
    pen.moveTo(a[0], a[1]);
    pen.lineTo(b[0] - 0.8 * head * Math.cos(angle), b[1] - 0.8 * head * Math.sin(angle));
    pen.stroke();
    pen.beginPath();
    pen.moveTo(b[0], b[1]);
    for (const side of [-2.6, 2.6]) pen.lineTo(b[0] + head * Math.cos(angle + side), b[1] + head * Math.sin(angle + side));
    pen.fill();
  }

  box() {
    const items = [], pen = this.pen, edges = this.project(this.scene.cell), steps = 8;
    for (let e = 0; e < edges.length; e += 2) {
      for (let k = 0; k < steps; k++) {
        const a = between(edges[e], edges[e + 1], k / steps), b = between(edges[e], edges[e + 1], (k + 1) / steps);
        items.push([(a[2] + b[2]) / 2, () => {
          pen.strokeStyle = css(this.fog([128, 140, 150], a[2]));
          pen.lineWidth = Math.max(1, 0.03 * a[3]);
          pen.beginPath();
          pen.moveTo(a[0], a[1]);
          pen.lineTo(b[0], b[1]);
          pen.stroke();
        }]);
      }
    }
    return items;
  }

  ring([x, y], r) {
    this.pen.strokeStyle = this.accent;
    this.pen.lineWidth = 3;
    this.pen.beginPath();
    this.pen.arc(x, y, r, 0, 2 * Math.PI);
    this.pen.stroke();
  }

  text([x, y], name) {
    const { pen } = this;
    pen.font = `600 ${13 * ratio()}px system-ui, sans-serif`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.lineWidth = 3 * ratio();
    pen.strokeStyle = css(this.paper);
    pen.strokeText(name, x, y);
    pen.fillStyle = this.ink;
    pen.fillText(name, x, y);
  }

  // Pointers turn with one finger or button, zoom with two or with the wheel once the view has the focus.
  listen() {
    const { canvas } = this, held = new Map();
    let moved = 0, apart = 0;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      held.set(event.pointerId, [event.clientX, event.clientY]);
      moved = apart = 0;
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = held.get(event.pointerId);
      if (!before) return;
      const here = [event.clientX, event.clientY];
      held.set(event.pointerId, here);
      moved += Math.hypot(here[0] - before[0], here[1] - before[1]);
      if (held.size === 1) return this.rotate((here[0] - before[0]) / 120, (here[1] - before[1]) / 120);
      const [p, q] = [...held.values()], gap = Math.hypot(p[0] - q[0], p[1] - q[1]);
      if (apart) this.scaleBy(gap / apart);
      apart = gap;
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => {
        if (end === "pointerup" && held.size === 1 && moved < 5) this.pick(event.offsetX * ratio(), event.offsetY * ratio());
        held.delete(event.pointerId);
      });
    }
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas) return;
      event.preventDefault();
      this.scaleBy(Math.exp(-event.deltaY / 600));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const turns = { ArrowLeft: [-TURN, 0], ArrowRight: [TURN, 0], ArrowUp: [0, -TURN], ArrowDown: [0, TURN] };
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (turns[event.key]) this.rotate(...turns[event.key]);
      else if (event.key === "+" || event.key === "=") this.scaleBy(1.15);
      else if (event.key === "-") this.scaleBy(1 / 1.15);
      else if (event.key === "0") this.reset();
      else return;
      event.preventDefault();
    });
    new ResizeObserver(() => {
      canvas.width = canvas.clientWidth * ratio();
      canvas.height = canvas.clientHeight * ratio();
      this.draw();
    }).observe(canvas);
  }

  // The foremost ball under a point joins the marked ones, or leaves them.
  pick(x, y) {
    const under = this.points
      .map((p, i) => [p[2], i, Math.hypot(p[0] - x, p[1] - y) < this.scene.radii[i] * BALL * p[3] + 4])
      .filter((one) => one[2]).sort((p, q) => q[0] - p[0]);
    if (!under.length) this.mark([]);
    else if (this.marked.includes(under[0][1])) this.mark(this.marked.filter((i) => i !== under[0][1]));
    else this.mark([...this.marked, under[0][1]].slice(-4));
    this.picked(this.marked);
  }

  mark(atoms) {
    this.marked = atoms.filter((i) => i < this.scene.n);
    this.draw();
  }
}

// Pairs closer than FULL times the sum of their radii; and, as weak ones, pairs that are so elsewhere on the path.
function bonds(scene, at) {
  const found = [], ever = scene.ever;
  for (let i = 0; i < scene.n; i++) {
    for (let j = i + 1; j < scene.n; j++) {
      const share = distance(at, i, j) / (scene.radii[i] + scene.radii[j]);
      if (share < FULL) found.push([i, j, false]);
      else if (share < WEAK && ever && ever.has(i * scene.n + j)) found.push([i, j, true]);
    }
  }
  return found;
}

// Every pair that is bonded in some frame, for scenes where bonds form and break.
function everBonded(scenes) {
  const ever = new Map();
  for (const scene of scenes) {
    if (scene.n > 300) continue;
    const pairs = ever.get(scene.n) ?? ever.set(scene.n, new Set()).get(scene.n);
    for (let k = 0; k < scene.frames; k++) {
      for (const [i, j] of bonds({ ...scene, ever: null }, scene.positions.subarray(...span(k, scene.n)))) {
        pairs.add(i * scene.n + j);
      }
    }
  }
  for (const scene of scenes) scene.ever = ever.get(scene.n) ?? null;
}

// What is between two, three or four atoms: Å or degrees, as text.
function measure(at, names, atoms) {
  const name = atoms.map((i) => names[i]).join("–");
  const way = (i, j) => [0, 1, 2].map((k) => at[3 * j + k] - at[3 * i + k]);
  if (atoms.length === 2) return `${name}: ${distance(at, ...atoms).toFixed(3)} Å`;
  if (atoms.length === 3) return `${name}: ${degrees(way(atoms[1], atoms[0]), way(atoms[1], atoms[2])).toFixed(1)}°`;
  if (atoms.length !== 4) return atoms.length ? name : "";
  const [u, v, w] = [way(atoms[0], atoms[1]), way(atoms[1], atoms[2]), way(atoms[2], atoms[3])];
  const [m, n] = [cross(u, v), cross(v, w)];
  return `${name}: ${(Math.sign(dot(m, w) || 1) * degrees(m, n)).toFixed(1)}°`;
}

const ratio = () => Math.min(window.devicePixelRatio || 1, 2);
const span = (index, n) => [3 * n * index, 3 * n * (index + 1)];
const css = (colour) => `rgb(${colour.map(Math.round).join(" ")})`;
const rgb = (hex) => [1, 3, 5].map((k) => parseInt(hex.trim().slice(k, k + 2), 16));
const mix = (a, b, share) => a.map((x, k) => x + share * (b[k] - x));
const between = (a, b, share) => a.map((x, k) => x + share * (b[k] - x));
const dot = (u, v) => u[0] * v[0] + u[1] * v[1] + u[2] * v[2];
const cross = (u, v) => [0, 1, 2].map((k) => u[(k + 1) % 3] * v[(k + 2) % 3] - u[(k + 2) % 3] * v[(k + 1) % 3]);
const degrees = (u, v) => (Math.acos(Math.max(-1, Math.min(1, dot(u, v) / Math.hypot(...u) / Math.hypot(...v)))) * 180) / Math.PI;
const distance = (at, i, j) => Math.hypot(at[3 * i] - at[3 * j], at[3 * i + 1] - at[3 * j + 1], at[3 * i + 2] - at[3 * j + 2]);

function times(a, b) {
  const c = new Array(9).fill(0);
  for (let i = 0; i < 3; i++) for (let j = 0; j < 3; j++) for (let k = 0; k < 3; k++) c[3 * i + j] += a[3 * i + k] * b[3 * k + j];
  return c;
}
