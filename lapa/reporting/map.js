// The map of latents: points are the circles of #map, in the order of the data. Without this script the map is a picture.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("map-data").textContent);
  const videos = JSON.parse(document.getElementById("map-videos").textContent);
  const map = document.getElementById("map");
  const points = [...map.querySelectorAll("circle")];
  const part = (name) => document.querySelector(`[data-map="${name}"]`);
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const REACH = 16; // pixels of the screen from a point to a finger or the mouse
  const SHOWN_LABELS = 24;
  let places = [];
  let colouring = data.colourings[0];
  let only = null; // the label that alone is shown
  let current = null; // the point that the arrow keys are at
  const urls = {};

  // Where the points lie.
  function place(name) {
    const flat = data.maps[name];
    places = points.map((_, k) => [flat[2 * k], flat[2 * k + 1]]);
    points.forEach((point, k) => {
      point.setAttribute("cx", places[k][0]);
      point.setAttribute("cy", places[k][1]);
    });
  }

  // What colours them.
  const isKinds = () => "labels" in colouring;
  const className = (colour) => (colour < 0 ? "rest" : `k${colour}`);
  const shown = (k) => only === null || colouring.of[k] === only;

  function amountColour(value) {
    if (value === null) return "none";
    const { low, high } = colouring;
    const share = Math.max(-1, Math.min(1, value / (high || 1)));
    const end = share < 0 ? "var(--low)" : "var(--high)";
    return `color-mix(in oklab, ${end} ${Math.round(100 * Math.abs(share))}%, var(--${low < 0 ? "middle" : "low"}))`;
  }

  function paint() {
    points.forEach((point, k) => {
      const of = colouring.of[k];
      const own = isKinds() ? className(colouring.colours[of]) : of === null ? "unknown" : "";
      const near = point.classList.contains("near");
      point.setAttribute("class", [own, shown(k) ? "" : "away", k === current ? "current" : "", near ? "near" : ""].join(" ").trim());
      point.style.fill = isKinds() || of === null ? "" : amountColour(of);
    });
  }

  function valueOf(k) {
    const of = colouring.of[k];
    const value = isKinds() ? colouring.labels[of] : of === null ? "not known" : String(Number(of.toPrecision(2)));
    return `${colouring.name}: ${value}`;
  }

  const describe = (k) => `${data.labels[k]}; ${valueOf(k)}`;

  function legend() {
    const box = part("legend");
    box.replaceChildren();
    if (!isKinds()) {
      const scale = document.createElement("span");
      scale.className = colouring.low < 0 ? "scale signed" : "scale";
      const unknown = colouring.of.filter((value) => value === null).length;
      box.append(`${colouring.low}`, scale, `${colouring.high}`, unknown ? `hollow: not known (${unknown})` : "");
      return;
    }
    const counts = colouring.labels.map(() => 0);
    colouring.of.forEach((of) => counts[of]++);
    const order = counts.map((_, k) => k).filter((k) => counts[k]).sort((a, b) => counts[b] - counts[a]);
    order.slice(0, SHOWN_LABELS).sort((a, b) => a - b).forEach((label) => {
      const button = document.createElement("button");
      const dot = document.createElement("i");
      dot.className = `dot ${className(colouring.colours[label])}`;
      button.type = "button";
      button.setAttribute("aria-pressed", String(only === label));
      button.append(dot, `${colouring.labels[label]} (${counts[label]})`);
      button.addEventListener("click", () => {
        only = only === label ? null : label;
        legend();
        paint();
      });
      box.append(button);
    });
    if (order.length > SHOWN_LABELS) box.append(`and ${order.length - SHOWN_LABELS} more`);
  }

  // Videos: the pair's own moments over and over, or the whole clip.
  function source(clip) {
    if (!(clip in videos)) return null;
    if (!(clip in urls)) {
      const bytes = Uint8Array.from(atob(videos[clip].mp4), (letter) => letter.charCodeAt(0));
      urls[clip] = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
    }
    return urls[clip];
  }

  function film(k) {
    const url = source(data.clip[k]);
    if (url === null) {
      const lacking = document.createElement("p");
      lacking.className = "small";
      lacking.textContent = "no video: the page's size is bounded";
      return lacking;
    }
    const video = document.createElement("video");
    Object.assign(video, { muted: true, loop: true, playsInline: true, src: url, controls: still });
    video.width = videos[data.clip[k]].width;
    video.height = videos[data.clip[k]].height;
    video.setAttribute("aria-label", data.labels[k]);
    const begin = data.start[k];
    const end = begin + data.gap[k] + 0.08; // the second frame is seen, too
    const whole = part("whole");
    const turn = () => {
      if (!video.isConnected) return;
      if (!whole.checked && (video.currentTime >= end || video.currentTime < begin - 0.2)) video.currentTime = begin;
      requestAnimationFrame(turn);
    };
    video.addEventListener("loadedmetadata", () => {
      video.currentTime = begin;
      if (!still) video.play().catch(() => { video.controls = true; });
      requestAnimationFrame(turn);
    });
    return video;
  }

  function card(k, words) {
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    caption.append(words, document.createElement("br"), data.labels[k]);
    figure.append(film(k), caption);
    return figure;
  }

  function neighbour(k, percent, words) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.point = k;
    button.append(card(k, `${words}, ${percent}% as far as usual`));
    button.addEventListener("click", () => {
      choose(k);
      part("player").focus();
    });
    return button;
  }

  function choose(k) {
    move(k);
    points.forEach((point) => point.classList.remove("near"));
    const bodies = data.bodies[k].map(([other]) => other);
    const found = [...data.near[k].filter(([other]) => !bodies.includes(other)), ...data.bodies[k]];
    part("chosen").replaceChildren(card(k, valueOf(k)));
    part("near").replaceChildren(...found.map(([other, percent]) => {
      points[other].classList.add("near");
      return neighbour(other, percent, bodies.includes(other) ? "another body" : "another source");
    }));
    part("player").hidden = false;
    paint();
  }

  function move(k) {
    current = k;
    part("told").textContent = describe(k);
    paint();
    map.append(points[k]); // on top
  }

  // Which point the mouse, a finger or an arrow key means.
  function under(event) {
    const box = map.getBoundingClientRect();
    const scale = map.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    let best = null, least = REACH * scale;
    places.forEach(([px, py], k) => {
      const far = Math.hypot(px - x, py - y);
      if (shown(k) && far < least) [best, least] = [k, far];
    });
    return best;
  }

  const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  function beside(k, [dx, dy]) {
    let best = k, least = Infinity;
    places.forEach(([px, py], other) => {
      const x = px - places[k][0], y = py - places[k][1];
      const ahead = x * dx + y * dy, aside = Math.abs(x * dy - y * dx);
      if (shown(other) && ahead > 0 && ahead + 2 * aside < least) [best, least] = [other, ahead + 2 * aside];
    });
    return best;
  }

  map.addEventListener("pointermove", (event) => {
    const k = under(event);
    map.style.cursor = k === null ? "" : "pointer";
    if (k !== null) part("told").textContent = describe(k);
  });
  map.addEventListener("click", (event) => {
    const k = under(event);
    if (k !== null) choose(k);
  });
  map.addEventListener("keydown", (event) => {
    const first = points.findIndex((_, k) => shown(k));
    if (event.key in STEPS) move(current === null ? first : beside(current, STEPS[event.key]));
    else if (event.key === "Enter" || event.key === " ") choose(current === null ? first : current);
    else return;
    event.preventDefault();
  });
  part("places").addEventListener("change", (event) => place(event.target.value));
  part("colours").addEventListener("change", (event) => {
    colouring = data.colourings[Number(event.target.value)];
    only = null;
    legend();
    choose(current);
  });

  map.setAttribute("tabindex", "0");
  map.setAttribute("role", "application");
  document.querySelectorAll("[data-map][hidden]:not([data-map=player])").forEach((each) => { each.hidden = false; });
  place(part("places").value);
  legend();
  choose(Math.max(0, data.clip.findIndex((clip) => clip in videos)));
})();
