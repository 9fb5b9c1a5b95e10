/* Tao answers sums: the network of chapter 9, which says its answer units first. Each digit it
   says is fed back to it, and shown with what it thought of saying. Needs gru.js and page.js;
   fills each <div class="charlm-tao"></div>. */

(() => {
  "use strict";
  const lib = window.charlm;
  const NUL = "\0"; // silence while it listens, and the end of an answer
  const LONGEST = 12; // an answer that does not end is cut here
  const PLACES = ["units", "tens", "hundreds", "thousands"];

  const CONTROLS = `
    <form class="charlm-widget" aria-label="Ask Tao" novalidate>
      <div class="charlm-row charlm-ask">
        <label>A sum
          <input type="text" name="sum" value="58+67" maxlength="24" autocomplete="off"
            inputmode="text" spellcheck="false"></label>
        <button name="write">Ask</button>
        <button type="button" name="draw">Another one</button>
      </div>
      <p class="charlm-status" role="status"></p>
    </form>`;

  const VIEWS = `
    <div class="charlm-widget">
      <p class="charlm-answer"></p>
      <table class="charlm-said"><caption>What it said, in its own order, and how sure it was
        </caption><thead><tr><th scope="col">Place</th><th scope="col">Said</th>
        <th scope="col">Probability</th><th scope="col">Next likeliest</th></tr></thead>
        <tbody></tbody></table>
      <p class="charlm-caption">Its hidden state: a column for each character, a row for each unit
        <span class="charlm-cell"></span></p>
      <canvas class="charlm-strip charlm-tall" role="img"></canvas>
      <p class="charlm-columns" aria-hidden="true"></p>
      <p class="charlm-legend"><span>−1</span><i></i><span>1</span></p>
    </div>`;

  // ---- listening and answering --------------------------------------------------------------

  /** The two numbers of a text like 58+67; throws an Error for a text that is no sum. */
  function readSum(text) {
    const match = /^\s*([0-9]+)\s*\+\s*([0-9]+)\s*(=\s*\??)?\s*$/.exec(text);
    if (!match) throw new Error(`“${text}” is no sum: write it like 58+67.`);
    const [a, b] = [match[1], match[2]].map((digits) => digits.replace(/^0+(?=\d)/, ""));
    if (a.length > 9 || b.length > 9) throw new Error("Nine digits a number are the most.");
    return { question: `${a}+${b}=?`, a: Number(a), b: Number(b) };
  }

  /** Reads the question and then its own answer: one step for each character that goes in. */
  function answer(model, question) {
    const steps = [];
    let state = lib.zeroState(model), logits;
    const read = (character) => {
      ({ logits, state } = lib.step(model, model.ids.get(character), state));
      steps.push({ character, hidden: state.at(-1) });
    };
    for (const character of question) read(character);
    const said = [];
    while (said.length < LONGEST) {
      const order = lib.ranking(logits);
      const probs = lib.probabilities(logits, 1, 0);
      const thought = order.slice(0, 2).map((id) => [model.vocab[id], probs[id]]);
      said.push(thought);
      if (thought[0][0] === NUL) break;
      read(thought[0][0]);
    }
    return { steps, said };
  }

  /** The number as it is written: the digits in front of the end, last said first. */
  function written(said) {
    const characters = said.map(([[character]]) => character);
    const end = characters.indexOf(NUL);
    return (end < 0 ? characters : characters.slice(0, end)).reverse().join("");
  }

  function ask(s) {
    let sum;
    try {
      sum = readSum(s.fields.sum.value);
    } catch (error) {
      lib.say(s.view.status, error.message, true);
      return;
    }
    Object.assign(s, answer(s.model, sum.question));
    const number = written(s.said);
    const right = number === String(sum.a + sum.b);
    const long = Math.max(sum.a, sum.b) > 99 ? " It was never taught numbers of this length." : "";
    const verdict = right ? "Right." : `Wrong: it is ${sum.a + sum.b}.`;
    lib.say(s.view.status, verdict + long);
    s.view.answer.textContent = `${sum.a} + ${sum.b} = ${number || "(silence)"}`;
    s.view.answer.classList.toggle("charlm-right", right);
    showSaid(s);
    showState(s);
  }

  // ---- showing ------------------------------------------------------------------------------

  const name = (character) => (character === NUL ? "end" : character);
  const percent = (p) => `${(100 * p).toFixed(1)} %`;

  function showSaid(s) {
    const rows = s.said.map(([[first, p], [second, q]], i) => {
      const row = document.createElement("tr");
      const place = first === NUL ? "–" : (PLACES[i] ?? `10^${i}`);
      for (const text of [place, name(first), percent(p), `${name(second)} ${percent(q)}`]) {
        row.insertCell().textContent = text;
      }
      row.cells[2].className = "charlm-bar";
      row.cells[2].style.setProperty("--p", p);
      return row;
    });
    s.view.said.replaceChildren(...rows);
  }

  /** The state after every character as a picture: one pixel per unit and character. */
  function showState(s) {
    const { strip, columns } = s.view;
    const [width, height] = [s.steps.length, s.model.hiddenSize];
    const picture = new ImageData(width, height);
    s.steps.forEach(({ hidden }, column) => {
      hidden.forEach((value, unit) => {
        picture.data.set([...lib.mix(s.colours, value), 255], 4 * (unit * width + column));
      });
    });
    strip.width = width;
    strip.height = height;
    strip.getContext("2d").putImageData(picture, 0, 0);
    const read = s.steps.map((step) => step.character);
    strip.setAttribute("aria-label", `Hidden state after each of ${read.join(" ")}`);
    columns.replaceChildren(
      ...read.map((character) => {
        const span = document.createElement("span");
        span.textContent = character;
        return span;
      })
    );
  }

  /** Names the unit and the character under the pointer. */
  function nameCell(s, event) {
    const { left, top, width, height } = s.view.strip.getBoundingClientRect();
    const column = Math.floor(((event.clientX - left) / width) * s.steps.length);
    const unit = Math.floor(((event.clientY - top) / height) * s.model.hiddenSize);
    const value = s.steps[column]?.hidden[unit];
    s.view.cell.textContent = value === undefined ? "" : `· unit ${unit}: ${lib.decimals(value)}`;
  }

  // ---- wiring -------------------------------------------------------------------------------

  function build(box, model) {
    box.innerHTML = CONTROLS + VIEWS;
    const find = (selector) => box.querySelector(selector);
    const view = { status: find(".charlm-status"), said: find("tbody") };
    for (const part of ["answer", "strip", "cell", "columns"]) view[part] = find(`.charlm-${part}`);
    const fields = Object.fromEntries([...find("form").elements].map((f) => [f.name, f]));
    const s = { model, fields, view, colours: lib.readColours(box) };
    find("form").addEventListener("submit", (event) => {
      event.preventDefault();
      ask(s);
    });
    fields.draw.addEventListener("click", () => {
      const number = () => Math.floor(100 * Math.random());
      fields.sum.value = `${number()}+${number()}`;
      ask(s);
    });
    view.strip.addEventListener("pointermove", (event) => nameCell(s, event));
    view.strip.addEventListener("pointerleave", () => (view.cell.textContent = ""));
    lib.onThemeChange(() => {
      s.colours = lib.readColours(box);
      showState(s);
    });
    ask(s);
  }

  lib.fill("charlm-tao", build, "gru-sums");
})();
