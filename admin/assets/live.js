// Keeps the overview up to date: when the pillar tells of something, at most
// every two seconds, and every ten in any case, the sections of the page are
// fetched as the server renders them, and those that changed are replaced.
"use strict";
(() => {
  const least = 2000, most = 10000;
  let last = Date.now(), timer = 0, busy = false, again = false, first = true;

  // path names an element that can have the focus, to find it in its successor.
  const find = (root, key) => key && [...root.querySelectorAll("a, button, [tabindex]")].find((e) => keyOf(e) === key);
  const keyOf = (e) => e.getAttribute("href") || e.getAttribute("aria-labelledby") || e.id;

  async function refresh() {
    timer = 0;
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch("/fragments/overview", { cache: "no-store" });
      if (answer.ok) show(await answer.text());
    } catch { /* the pillar is away: the stream says when it is back */ }
    last = Date.now();
    busy = false;
    schedule(again ? least : most);
    again = false;
  }

  function show(html) {
    const fresh = new DOMParser().parseFromString(html, "text/html");
    for (const section of fresh.querySelectorAll("[data-live]")) {
      const old = document.getElementById(section.id);
      if (!old || old.innerHTML === section.innerHTML && old.getAttribute("class") === section.getAttribute("class")) continue;
      const focused = old.contains(document.activeElement) ? keyOf(document.activeElement) : "";
      const scrolled = [...old.querySelectorAll(".scroll")].map((e) => e.scrollLeft);
      const next = document.importNode(section, true);
      old.replaceWith(next);
      next.querySelectorAll(".scroll").forEach((e, i) => { e.scrollLeft = scrolled[i] || 0; });
      const target = find(next, focused);
      if (target) target.focus({ preventScroll: true });
    }
    light();
  }

  // What the pointer or the focus is on is lit on the map: a pillar with its
  // connections, or one connection, which is told below in words.
  const map = document.querySelector("svg.map");
  let lit = "";
  function light() {
    const ends = lit.split(" ");
    let text = "";
    for (const edge of map.querySelectorAll("[data-ends]")) {
      const on = ends.length === 2 ? edge.dataset.ends === lit : edge.dataset.ends.split(" ").includes(lit);
      edge.classList.toggle("on", on);
      if (on && ends.length === 2) text = edge.querySelector("title").textContent;
    }
    const pillar = lit && ends.length === 1 && map.querySelector(`[data-number="${lit}"]`);
    if (pillar) text = pillar.getAttribute("aria-label");
    map.classList.toggle("lit", text !== "");
    map.parentNode.classList.toggle("pointing", text !== "");
    document.getElementById("map-point").textContent = text;
  }
  const point = (e) => {
    const on = e.target.closest("[data-ends], [data-number]");
    const next = on ? on.dataset.ends || on.dataset.number : "";
    if (next !== lit) { lit = next; light(); }
  };
  const unpoint = () => { if (lit) { lit = ""; light(); } };
  map.addEventListener("pointerover", point);
  map.addEventListener("focusin", point);
  map.addEventListener("pointerleave", unpoint);
  map.addEventListener("focusout", unpoint);

  function schedule(wait) {
    if (document.hidden) return;
    const due = Math.max(last + wait - Date.now(), 0);
    if (timer) clearTimeout(timer);
    timer = setTimeout(refresh, due);
  }

  let stream = null;
  function listen() {
    stream = new EventSource("/v1/events");
    for (const kind of ["member", "sync", "node", "log", "drain"]) {
      stream.addEventListener(kind, () => schedule(least));
    }
    // The first comes soon after the page, which did not wait for it.
    stream.addEventListener("links", () => { schedule(first ? 0 : least); first = false; });
    stream.onopen = () => document.documentElement.classList.remove("lost");
    stream.onerror = () => document.documentElement.classList.add("lost");
  }
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { if (stream) stream.close(); stream = null; clearTimeout(timer); timer = 0; return; }
    if (!stream) listen();
    schedule(0);
  });
  if (!document.hidden) { listen(); schedule(most); }
})();
