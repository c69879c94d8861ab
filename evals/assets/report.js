// Cart and pole: play an episode back at its own speed.
for (const player of document.querySelectorAll(".cartpole")) {
  const data = JSON.parse(player.querySelector("script").textContent);
  const find = (selector) => player.querySelector(selector);
  const [cart, pole, bob, trail] = [".cart", ".pole", ".bob", ".trail"].map(find);
  const [button, slider, clock] = [".play", "input", "output"].map(find);
  const last = data.reward.length - 1;
  const tips = data.angle.map((angle, i) => [
    data.position[i] + data.pole * Math.sin(angle),
    -data.pole * Math.cos(angle),
  ]);
  const traces = ["reward", "action"].map((name) => ({
    values: data[name],
    now: find(`.trace.${name} .now`),
    cursor: find(`.trace.${name} .cursor`),
  }));
  const place = (element, values) => {
    for (const [name, value] of Object.entries(values)) element.setAttribute(name, value);
  };
  const show = (step) => {
    const x = data.position[step];
    const [tipX, tipY] = tips[step];
    place(cart, { transform: `translate(${x} 0)` });
    place(pole, { x1: x, y1: 0, x2: tipX, y2: tipY });
    place(bob, { cx: tipX, cy: tipY });
    place(trail, { points: tips.slice(Math.max(0, step - 30), step + 1).join(" ") });
    for (const { values, now, cursor } of traces) {
      now.textContent = values[step].toFixed(2);
      place(cursor, { transform: `translate(${(1000 * step) / Math.max(last, 1)} 0)` });
    }
    slider.value = step;
    clock.textContent = `${(step * data.seconds).toFixed(2)} s / ${(last * data.seconds).toFixed(1)} s`;
  };
  let started = null; // [time on the page, step] of the present playback; null while paused
  const pause = () => {
    started = null;
    button.textContent = "Play";
  };
  const tick = (time) => {
    if (!started) return;
    started[0] ??= time;
    const step = started[1] + Math.floor((time - started[0]) / 1000 / data.seconds);
    show(Math.min(step, last));
    if (step >= last) pause();
    else requestAnimationFrame(tick);
  };
  button.addEventListener("click", () => {
    if (started) return pause();
    const from = Number(slider.value);
    started = [null, from >= last ? 0 : from];
    button.textContent = "Pause";
    requestAnimationFrame(tick);
  });
  slider.addEventListener("input", () => {
    pause();
    show(Number(slider.value));
  });
  show(0);
}
