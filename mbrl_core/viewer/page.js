"use strict";

// Charts: the point under the pointer tells its numbers.
(() => {
  const tip = document.getElementById("tip");
  document.addEventListener("pointerover", (event) => {
    const point = event.target.closest?.("[data-tip]");
    tip.style.opacity = point ? 1 : 0;
    if (!point) return;
    tip.textContent = point.dataset.tip;
    const box = point.getBoundingClientRect();
    const left = Math.min(box.left + 16, innerWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, box.top - tip.offsetHeight - 4)}px`;
  });
  addEventListener("scroll", () => (tip.style.opacity = 0), { passive: true });
})();
