// Puts what the server sends in the place of what stands there. All of it was escaped by the server; the page's policy
// lets no other script run.
"use strict";

const state = document.getElementById("state");
let received = performance.now();

function show(text, kind) {
  state.textContent = text;
  state.className = "state " + kind;
}

function put(id, html) {
  const place = document.getElementById(id);
  const scrolled = [...place.querySelectorAll(".scroll")].map((part) => [part.scrollLeft, part.scrollTop]);
  place.innerHTML = html;
  place.querySelectorAll(".scroll").forEach((part, index) => {
    if (index < scrolled.length) [part.scrollLeft, part.scrollTop] = scrolled[index];
  });
}

function words(seconds) {
  if (seconds >= 5400) return (seconds / 3600).toFixed(1) + " h";
  if (seconds >= 120) return (seconds / 60).toFixed(1) + " min";
  return seconds.toFixed(0) + " s";
}

function tick() {
  for (const clock of document.querySelectorAll("[data-seconds]")) {
    clock.textContent = words(Number(clock.dataset.seconds) + (performance.now() - received) / 1000);
  }
}

const source = new EventSource("events");
source.onmessage = (event) => {
  received = performance.now();
  for (const [id, html] of Object.entries(JSON.parse(event.data))) put(id, html);
  document.title = document.querySelector("h1").textContent;
  show("live", "live");
  tick();
};
source.addEventListener("done", () => {
  source.close();
  clearInterval(ticking);
  show("the server has ended; this is the last that it said", "");
});
source.onerror = () => {
  const gone = source.readyState === EventSource.CLOSED;
  show(gone ? "no connection: the server has ended, or has too many readers; reload to try again"
            : "the connection is lost; trying again", "lost");
};
const ticking = setInterval(tick, 1000);
