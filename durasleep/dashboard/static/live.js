"use strict";
// What people have opened or chosen on a page stays as it is when the page is renewed.
const kept = { beforeAttributeUpdated: (name) => name !== "open" && name !== "checked" };
for (const box of document.querySelectorAll("[data-live]:not([data-live=''])")) {
  const trouble = document.getElementById("trouble");
  const say = (text) => { trouble.textContent = text; trouble.hidden = !text; };
  let source;
  const follow = () => {
    source?.close();
    if (document.hidden) return;
    source = new EventSource(box.dataset.live);
    source.onmessage = (event) => { say(""); Idiomorph.morph(box, event.data, { morphStyle: "innerHTML", callbacks: kept }); };
    source.onerror = () => say("This page is not kept current now: reload it to see what has changed.");
    source.addEventListener("trouble", (event) => say(event.data));
  };
  document.addEventListener("visibilitychange", follow);
  follow();
}
document.addEventListener("keydown", (event) => {
  const filter = document.querySelector("[data-filter]");
  if (event.key !== "/" || !filter || event.target.closest("input, select, textarea")) return;
  event.preventDefault();
  filter.focus();
});
