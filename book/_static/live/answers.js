// Questions that are answered on the page: the options of a predict box, and the closing quizzes. A wrong answer is told why it
// is wrong and may be thought over; the right one is not shown before it is found. What the reader answered is kept in this
// browser. What stands in a <div class="live-answers"> is made by book/_ext/book_answers.py.
"use strict";

(() => {
  const { element } = live;

  // --- what is kept -----------------------------------------------------------------------------------

  /** What this browser keeps under a name; some keep nothing (private windows, some pages from disk), and a page then forgets. */
  function recall(name) {
    try {
      const { given } = JSON.parse(localStorage.getItem(`cdedu.answers.${name}`)) ?? {};
      return { given: Array.isArray(given) ? given : [] }; // what has another shape was not written here
    } catch {
      return {};
    }
  }

  function keep(name, value) {
    try {
      if (Object.keys(value).length) localStorage.setItem(`cdedu.answers.${name}`, JSON.stringify(value));
      else localStorage.removeItem(`cdedu.answers.${name}`);
    } catch {
      // nothing to be done, and nothing that a reader could do
    }
  }

  // --- one question -----------------------------------------------------------------------------------
  // A question's answers are a list, `given`, that its asker keeps: changed() is called after each further one.

  const verdict = (right) => element("strong", { class: "answer-verdict" }, right ? "✓ Right." : "✗ Not quite.");

  /** A button for each option { label: nodes, said: nodes, right }, and below them what is said of the last one pressed. */
  function choice(options, given, changed, about) {
    const said = options.map((one) => {
      const again = one.right ? [] : [element("p", { class: "answer-again" }, "Think again, and choose another.")];
      return element("div", { class: "answer-said" }, verdict(one.right), " ", ...one.said, ...again);
    });
    const buttons = options.map((one, i) => {
      const press = () => {
        given.push(i);
        show();
        changed();
      };
      const mark = element("span", { class: "answer-mark" });
      return element("button", { type: "button", onclick: press }, element("span", {}, ...one.label), mark);
    });
    const show = () => {
      const found = given.some((i) => options[i].right);
      buttons.forEach((button, i) => {
        const tried = given.includes(i) ? (options[i].right ? "right" : "wrong") : "";
        button.dataset.tried = tried;
        button.lastChild.textContent = { right: "✓", wrong: "✗" }[tried] ?? "";
        button.setAttribute("aria-pressed", String(i === given.at(-1)));
        said[i].hidden = i !== given.at(-1);
        said[i].classList.toggle("answer-found", found);
      });
    };
    show();
    const group = element("div", { class: "answer-options", role: "group", "aria-label": about }, ...buttons);
    return [group, element("div", { class: "live-say", role: "status" }, ...said)];
  }

  /** Numbers that a text may mean: a comma is a decimal point, or stands between thousands. */
  function readings(text) {
    const plain = text.replace(/[−–]/g, "-").replace(/\s/g, "");
    const meant = [plain.replace(",", "."), plain.replaceAll(",", "")];
    return [...new Set(meant.filter((one) => /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(one)).map(Number))];
  }

  /** What becomes of a number, by the rules of cdedu.course.quiz. */
  function judge({ right, tolerance, wrong, why }, value) {
    const close = (other) => Math.abs(value - other) <= tolerance * Math.max(Math.abs(other), 1e-9);
    if (close(right)) return { right: true, said: why };
    const known = wrong.find(([other]) => close(other));
    return { right: false, said: known ? known[1] : `${+value.toPrecision(6)} is too ${value < right ? "low" : "high"}.` };
  }

  /** A field for a number, and what is said of the last one. */
  function number(question, given, changed, about) {
    const field = element("input", { type: "text", inputmode: "decimal", autocomplete: "off", size: 9, "aria-label": about });
    const say = element("div", { class: "live-say", role: "status" });
    const show = () => {
      const found = readings(given.at(-1)).map((value) => judge(question, value));
      const { right, said } = found.find((one) => one.right) ?? found[0];
      say.replaceChildren(element("div", { class: "answer-said" }, verdict(right), " ", ...nodes(said), ...(right ? [] : reread(question))));
    };
    const check = (event) => {
      event.preventDefault();
      if (!readings(field.value).length) return say.replaceChildren("Write a number, such as 0.25.");
      given.push(field.value);
      show();
      changed();
    };
    if (given.length) {
      field.value = given.at(-1);
      show();
    }
    const button = element("button", { type: "submit" }, "Check");
    return [element("form", { class: "live-row", onsubmit: check }, field, button), say];
  }

  /** Whether one of a question's answers is right: "first", "later", "no", or "" where none was given. */
  function outcome(question, given) {
    const right = (one) => (question.options ? one === question.right : readings(one).some((value) => judge(question, value).right));
    if (!given.length) return "";
    return right(given[0]) ? "first" : given.some(right) ? "later" : "no";
  }

  // --- a predict box ----------------------------------------------------------------------------------

  /** The list stays in the page for paper. */
  function box(root) {
    const { name } = root.dataset;
    const part = element("div", { class: "live-part answer-box" });
    const copies = (nodes) => [...nodes].map((node) => node.cloneNode(true));
    const build = (given) => {
      const options = [...root.querySelectorAll(":scope > ul > li")].map((item) => {
        const said = item.querySelector(".answer-said");
        const words = said.querySelectorAll(":scope > :not(summary)");
        return { label: copies(item.querySelector("p").childNodes), said: copies(words), right: "right" in said.dataset };
      });
      const forget = element("button", { type: "button", class: "answer-forget", hidden: !given.length }, "Forget my answer");
      const changed = () => {
        forget.hidden = false;
        keep(name, { given });
      };
      forget.addEventListener("click", () => {
        keep(name, {});
        build([]);
        part.querySelector("button").focus();
      });
      part.replaceChildren(...choice(options, given, changed, "Options"), forget);
    };
    const count = root.querySelectorAll(":scope > ul > li").length;
    build((recall(name).given ?? []).filter((i) => Number.isInteger(i) && i < count));
    root.append(part);
  }

  // --- a quiz -----------------------------------------------------------------------------------------

  /** Nodes of HTML that came with the page. */
  function nodes(html) {
    const holder = document.createElement("template");
    holder.innerHTML = html;
    return [...holder.content.childNodes];
  }

  const reread = ({ link, chapter }) => [" See ", element("a", { href: link }, chapter), "."];

  function quiz(root, { name, draws }) {
    const seeds = Object.keys(draws).map(Number);
    const settings = live.settings("quiz", { seed: seeds[0] }, { seed: [seeds[0], seeds.at(-1)] });
    const list = element("ol", { class: "answer-quiz" });
    const score = element("p", {});
    const over = element("button", { type: "button" }, "Start over");
    const bar = element("div", { class: "live-row answer-score" }, score, over);
    const draw = element("select", {}, ...seeds.map((seed) => element("option", { value: seed }, String(seed))));
    let given;

    function build() {
      const questions = draws[settings.seed];
      const where = `${name}.${settings.seed}`;
      const had = recall(where).given ?? [];
      const answer = (one) => Number.isInteger(one) || typeof one === "string";
      given = questions.map((_, i) => (Array.isArray(had[i]) ? had[i].filter(answer) : []));
      const changed = () => {
        keep(where, { given });
        tell(questions);
      };
      const items = questions.map((question, i) => {
        const about = `Answer to question ${i + 1}`;
        if (!question.options) return [question, number(question, given[i], changed, about)];
        const options = question.options.map((label, k) => {
          const right = k === question.right;
          return { label: nodes(`(${"abcd"[k]}) ${label}`), said: [...nodes(question.said[k]), ...(right ? [] : reread(question))], right };
        });
        return [question, choice(options, given[i], changed, about)];
      });
      list.replaceChildren(...items.map(([{ text }, asked]) => element("li", {}, element("p", {}, ...nodes(text)), ...asked)));
      tell(questions);
    }

    function tell(questions) {
      const found = questions.map((question, i) => outcome(question, given[i]));
      const count = (kind) => found.filter((one) => one === kind).length;
      const open = count("") + count("no");
      const later = count("later") ? `, ${count("later")} more after thinking again` : "";
      score.textContent = `${count("first")} of ${found.length} right on the first try${later}${open ? `; ${open} to go` : ""}.`;
      bar.hidden = count("") === found.length;
    }

    draw.value = settings.seed;
    draw.addEventListener("change", () => {
      settings.set({ seed: Number(draw.value) });
      build();
    });
    over.addEventListener("click", () => {
      keep(`${name}.${settings.seed}`, {});
      build();
      list.querySelector("button, input").focus();
    });
    build();
    root.append(element("div", { class: "live-part" }, element("label", { class: "answer-draw" }, "Seed", draw), list, bar));
  }

  const decoded = (text) => JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(text), (one) => one.charCodeAt(0))));

  live.answers = { judge, outcome, readings };
  live.part("answers", (root) => {
    const data = root.querySelector('script[type="application/json"]');
    if (data) quiz(root, decoded(JSON.parse(data.textContent)));
    else box(root);
  });
})();
