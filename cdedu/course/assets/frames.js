(figure) => {
  if (!figure || figure.dataset.ready) return;
  figure.dataset.ready = "yes";
  const [image, control] = [figure.querySelector("img"), figure.querySelector(".cd-control")];
  const [slider, shown] = [control.querySelector("input"), control.querySelector("output")];
  const { frames, values, alts, play } = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
  const show = () => {
    const i = Number(slider.value);
    image.src = "data:image/png;base64," + frames[i];
    image.alt = alts[i];
    shown.textContent = values[i];
    slider.setAttribute("aria-valuetext", values[i]);
  };
  slider.addEventListener("input", show);
  control.hidden = false;
  show();
  if (!play) return;

  const button = control.querySelector("button");
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let [playing, inView, timer] = [false, true, 0];
  const step = () => {
    slider.value = (Number(slider.value) + 1) % frames.length;
    show();
  };
  const run = () => {
    clearInterval(timer);
    timer = playing && inView && !document.hidden ? setInterval(step, 1000 / play) : 0;
    button.textContent = playing ? "Pause" : "Play";
    shown.setAttribute("aria-live", playing ? "off" : "polite"); // several values a second are nothing to listen to
  };
  const turn = (on) => ((playing = on), run());
  const rest = () => ((button.hidden = still.matches), turn(false));
  button.addEventListener("click", () => turn(!playing));
  slider.addEventListener("input", () => turn(false));
  still.addEventListener("change", rest);
  document.addEventListener("visibilitychange", run);
  new IntersectionObserver((entries) => ((inView = entries.at(-1).isIntersecting), run())).observe(figure);
  rest();
}
