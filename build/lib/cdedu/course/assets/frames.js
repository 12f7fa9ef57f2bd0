(figure) => {
  if (!figure || figure.dataset.ready) return;
  figure.dataset.ready = "yes";
  const [image, control] = [figure.querySelector("img"), figure.querySelector(".cd-control")];
  const [slider, shown] = [control.querySelector("input"), control.querySelector("output")];
  const { frames, values, alts } = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
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
}
