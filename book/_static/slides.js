// Fills the sheets: what does not fit on one goes on a further one of the same title, and what is wider than a sheet is made smaller.
const BOTTOM = 660; // of what a sheet of 720 pixels shows
const BELOW = 90; // for a sentence below a picture that shares its sheet
const deck = document.querySelector(".reveal");
deck.classList.add("measuring");

function fill(sheet) {
  const title = sheet.querySelector("h2").textContent.trim();
  const parts = [...sheet.children], top = sheet.getBoundingClientRect().top;
  let filled = 0;
  for (const [i, part] of parts.entries()) {
    if (!i || part.matches("aside")) continue;
    const { top: start, height } = part.getBoundingClientRect(), picture = part.querySelector("img");
    const room = BOTTOM - (start - top) - (picture && filled ? BELOW : 0);
    if (height > room && picture && room > 0.75 * height) {
      picture.style.width = "auto";
      picture.style.height = `${picture.offsetHeight - (height - room)}px`;
    } else if (height > room && filled) {
      const next = sheet.cloneNode(false);
      next.append(parts[0].cloneNode(true), ...parts.slice(i));
      next.querySelectorAll("[id]").forEach((one) => one.removeAttribute("id"));
      sheet.after(next);
      fill(next);
      break;
    } else if (height > room) {
      part.style.zoom = room / height;
    }
    filled += 1;
  }
  if (!sheet.querySelector("aside.notes")) {
    const notes = Object.assign(document.createElement("aside"), { className: "notes" });
    notes.append(`The chapter goes on: ${title}.`);
    sheet.append(notes);
  }
}

MathJax.startup.promise.then(() => {
  for (const one of deck.querySelectorAll('mjx-container[display="true"]')) {
    const share = one.parentElement.clientWidth / Math.max(one.scrollWidth, one.offsetWidth);
    if (share < 0.999) one.style.fontSize = `${0.98 * share * parseFloat(getComputedStyle(one).fontSize)}px`;
  }
  deck.querySelectorAll(".slides > section > section").forEach(fill);
  deck.classList.remove("measuring");
  Reveal.initialize({
    width: 1280, height: 720, margin: 0.02, center: false, hash: true, slideNumber: "c/t", transition: "none",
    plugins: [RevealNotes],
  });
});
