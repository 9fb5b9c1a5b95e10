/* The neuron browser: one number of the hidden state, followed through a text. It runs the same
   GRU as the sampler. Needs gru.js and page.js; fills each <div class="charlm-neurons"></div>. */

(() => {
  "use strict";
  const lib = window.charlm;
  const CHIPS = 6; // units offered for a start

  const PASSAGE = `a letter is easy to guess at the end of a word, and hard at its beginning.
"why?" asked the reader. "because," said the book, "the first letters leave (almost always) only \
one way out." in 1886 this was as true as it is today--and nobody had counted it yet!`;

  const CONTROLS = `
    <form class="charlm-widget" aria-label="Neuron browser">
      <label>Text <small>at most 600 characters</small>
        <textarea name="text" rows="4" maxlength="600" spellcheck="false" autocapitalize="off"
          autocomplete="off" autocorrect="off"></textarea></label>
      <div class="charlm-row">
        <label>Unit <input type="number" name="unit" min="0" value="0"></label>
        <button type="button" name="previous">Previous</button>
        <button type="button" name="next">Next</button>
      </div>
      <div class="charlm-row charlm-chips" role="group" aria-label="The most variable units">
        <span>Most variable here:</span></div>
      <div class="charlm-row charlm-chips" role="group" aria-label="The slowest units">
        <span>Slowest here:</span></div>
      <p class="charlm-status" role="status"></p>
    </form>`;

  const VIEWS = `
    <div class="charlm-widget">
      <div class="charlm-text charlm-coloured" role="group" aria-label="The text, coloured"
        tabindex="0"></div>
      <p class="charlm-legend"><span>−1, line below</span><i></i><span>1, line above</span></p>
      <p class="charlm-caption">The unit over the text: 1 at the top, −1 at the bottom</p>
      <svg class="charlm-plot" role="img" preserveAspectRatio="none">
        <line class="charlm-axis" y1="0" y2="0"/><line class="charlm-here" y1="-1" y2="1"/>
        <polyline/></svg>
      <label>Character <strong class="charlm-place"></strong>
        <input type="range" name="at" min="0" value="0"></label>
    </div>`;

  // ---- computing --------------------------------------------------------------------------

  /** The hidden state after each id of a text; what stood there before the change is kept. */
  function readText(s, ids) {
    let same = 0;
    while (same < ids.length && ids[same] === s.steps[same]?.id) same += 1;
    s.steps.length = same;
    for (const id of ids.slice(same)) {
      const before = s.steps.at(-1)?.state ?? lib.zeroState(s.model);
      const { state } = lib.step(s.model, id, before);
      s.steps.push({ id, state, hidden: state.at(-1), character: s.model.vocab[id] });
    }
  }

  const activations = (s, unit) => s.steps.map((step) => step.hidden[unit]);

  /** Standard deviation: how much a unit changes over the text. */
  function spread(values) {
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    return Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length);
  }

  /** How far a unit moves from one character to the next, compared with its spread. */
  function pace(values) {
    const moves = values.slice(1).map((value, i) => (value - values[i]) ** 2);
    const mean = moves.reduce((a, b) => a + b, 0) / moves.length;
    return Math.sqrt(mean) / spread(values);
  }

  /** Units worth a look: those that change most, and of the livelier half those that change
      slowest: they hold on to something that is longer than a character. */
  function suggest(s) {
    const units = Array.from({ length: s.model.hiddenSize }, (_, unit) => unit);
    const spreads = units.map((unit) => spread(activations(s, unit)));
    const paces = units.map((unit) => pace(activations(s, unit)));
    const lively = units.sort((a, b) => spreads[b] - spreads[a]).slice(0, units.length / 2);
    const slow = [...lively].sort((a, b) => paces[a] - paces[b]);
    return [lively.slice(0, CHIPS), slow.slice(0, CHIPS)];
  }

  // ---- showing ----------------------------------------------------------------------------

  /** A new text: read it, lay it out, offer units. Nothing changes if it can't. */
  function takeText(s) {
    const { text, at } = s.fields;
    try {
      const { ids, lowered } = lib.encode(s.model, text.value);
      if (!ids.length) throw new Error("The text is empty: give the model something to read.");
      readText(s, ids);
      s.note = lowered ? " Capitals were read as small letters, the only ones it knows." : "";
    } catch (error) {
      lib.say(s.view.status, error.message, true);
      return;
    }
    at.max = s.steps.length - 1;
    layOut(s);
    s.suggested = suggest(s);
    s.view.chips.forEach((row, i) => offer(s, row, s.suggested[i]));
    showUnit(s);
  }

  /** One span per character; a line end shows its sign and still ends the line. */
  function layOut(s) {
    s.view.letters = s.steps.map(({ character }) => {
      const span = document.createElement("span");
      span.textContent = character === "\n" ? "↵\n" : character;
      return span;
    });
    s.view.text.replaceChildren(...s.view.letters);
  }

  /** Buttons for a row of units. */
  function offer(s, row, units) {
    const buttons = units.map((unit) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = unit;
      button.addEventListener("click", () => choose(s, unit));
      return button;
    });
    row.replaceChildren(row.firstElementChild, ...buttons);
  }

  function choose(s, unit) {
    const H = s.model.hiddenSize;
    s.fields.unit.value = s.unit = (unit + H) % H; // before the first comes the last
    showUnit(s);
  }

  /** Colours the text by the unit: hue and depth of the colour, place and weight of a line. */
  function showUnit(s) {
    const values = activations(s, s.unit);
    s.view.letters.forEach((span, i) => {
      const end = values[i] < 0 ? "minus" : "plus";
      span.style.background = `rgb(${lib.mix(s.colours, values[i])})`;
      span.style.boxShadow = `inset 0 ${Math.round(3 * values[i])}px var(--charlm-line-${end})`;
      span.title = `${lib.spoken(s.steps[i].character)}: ${lib.decimals(values[i])}`;
    });
    for (const chip of s.view.box.querySelectorAll(".charlm-chips button")) {
      chip.setAttribute("aria-pressed", Number(chip.textContent) === s.unit);
    }
    drawPlot(s, values);
    describe(s, values);
    mark(s);
  }

  /** The unit over the text, -1 at the bottom and 1 at the top; SVG counts downwards. */
  function drawPlot({ view }, values) {
    const width = Math.max(1, values.length - 1);
    view.plot.setAttribute("viewBox", `0 -1.05 ${width} 2.1`);
    view.axis.setAttribute("x2", width);
    view.line.setAttribute("points", values.map((value, i) => `${i},${-value}`).join(" "));
  }

  /** One sentence on the unit, spoken when the reader pauses. */
  function describe(s, values) {
    const [low, high] = [Math.min(...values), Math.max(...values)].map(lib.decimals);
    const sentence =
      `Unit ${s.unit} goes from ${low} to ${high} over ${values.length} characters; its spread ` +
      `is ${lib.decimals(spread(values))}.`;
    s.view.plot.setAttribute("aria-label", sentence);
    clearTimeout(s.pause);
    s.pause = setTimeout(() => lib.say(s.view.status, sentence + s.note), 500);
  }

  /** Marks one character in the text and in the plot, and says its value. */
  function mark(s) {
    const at = Math.min(s.hovered ?? Number(s.fields.at.value), s.steps.length - 1);
    const { character, hidden } = s.steps[at];
    const words = `${at + 1}, ${lib.spoken(character)}: ${lib.decimals(hidden[s.unit])}`;
    s.view.text.querySelector(".charlm-marked")?.classList.remove("charlm-marked");
    s.view.letters[at].classList.add("charlm-marked");
    s.view.place.textContent = words;
    s.fields.at.setAttribute("aria-valuetext", words);
    s.view.here.setAttribute("x1", at);
    s.view.here.setAttribute("x2", at);
  }

  // ---- wiring -----------------------------------------------------------------------------

  function listen(s) {
    const { text, unit, previous, next } = s.fields;
    text.form.addEventListener("submit", (event) => event.preventDefault());
    text.addEventListener("input", () => {
      cancelAnimationFrame(s.frame);
      s.frame = requestAnimationFrame(() => takeText(s));
    });
    unit.addEventListener("input", () => {
      const wanted = Number(unit.value);
      const known = wanted >= 0 && wanted < s.model.hiddenSize;
      if (unit.value && Number.isInteger(wanted) && known) choose(s, wanted);
      else lib.say(s.view.status, `The unit must be a whole number from 0 to ${unit.max}.`, true);
    });
    previous.addEventListener("click", () => choose(s, s.unit - 1));
    next.addEventListener("click", () => choose(s, s.unit + 1));
    listenToViews(s);
  }

  function listenToViews(s) {
    const { text, plot } = s.view;
    const hover = (at) => {
      s.hovered = at >= 0 ? at : null;
      mark(s);
    };
    const inPlot = (event) => {
      const { left, width } = plot.getBoundingClientRect();
      return Math.round(((event.clientX - left) / width) * (s.steps.length - 1));
    };
    const pin = (at) => {
      if (at >= 0) s.fields.at.value = at;
      mark(s);
    };
    text.addEventListener("pointerover", (event) => hover(s.view.letters.indexOf(event.target)));
    text.addEventListener("click", (event) => pin(s.view.letters.indexOf(event.target)));
    plot.addEventListener("pointermove", (event) => hover(inPlot(event)));
    plot.addEventListener("click", (event) => pin(inPlot(event)));
    for (const view of [text, plot]) view.addEventListener("pointerleave", () => hover(-1));
    s.fields.at.addEventListener("input", () => mark(s));
    lib.onThemeChange(() => {
      s.colours = lib.readColours(s.view.box);
      showUnit(s);
    });
  }

  function build(box, model) {
    box.innerHTML = CONTROLS + VIEWS;
    const chips = [...box.querySelectorAll(".charlm-chips")];
    const view = { box, chips, line: box.querySelector("polyline"), letters: [] };
    for (const name of ["text", "status", "place", "plot", "axis", "here"]) {
      view[name] = box.querySelector(`.charlm-${name}`);
    }
    const inputs = box.querySelectorAll("[name]");
    const fields = Object.fromEntries(Array.from(inputs, (field) => [field.name, field]));
    fields.text.value = PASSAGE;
    fields.unit.max = model.hiddenSize - 1;
    const s = { model, view, fields, unit: 0, steps: [], colours: lib.readColours(box), note: "" };
    listen(s);
    takeText(s);
    if (s.suggested) choose(s, s.suggested[1][0]);
  }

  lib.fill("charlm-neurons", build);
})();
