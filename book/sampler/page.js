/* What the sampler, the neuron browser and Tao share: finding their places on the page, characters
   that can be seen, colours for numbers from -1 to 1. Needs gru.js. */

Object.assign(window.charlm, (() => {
  "use strict";

  const models = new Map();

  /** The model that a place on the page asks for; it is unpacked once. */
  function modelFor(box, usual) {
    const name = box.dataset.model ?? usual;
    const saved = (window.charlmModels ?? {})[name];
    if (!saved) throw new Error(`The weights of ${name} did not come with this page.`);
    if (!models.has(name)) models.set(name, window.charlm.readModel(saved));
    return models.get(name);
  }

  /** Runs `build(box, model)` on every place of this class; says so where it can't. */
  function fill(className, build, usual = "gru-nietzsche") {
    for (const box of document.getElementsByClassName(className)) {
      try {
        build(box, modelFor(box, usual));
      } catch (error) {
        box.textContent = `This part of the page did not start: ${error.message}`;
        throw error;
      }
    }
  }

  const SIGNS = { " ": ["␣", "space"], "\n": ["↵", "line end"], "\t": ["⇥", "tab"] };

  /** A sign that can be seen in place of a character. */
  const sign = (character) => (SIGNS[character] ?? [character])[0];

  /** How to speak of a character: “e”, space, line end. */
  const spoken = (character) => (SIGNS[character] ?? [0, `“${character}”`])[1];

  /** A number with two decimals and a proper minus sign. */
  const decimals = (value) => value.toFixed(2).replace("-", "−");

  /** The colours of -1, 0 and 1 as [red, green, blue], from sampler.css, light or dark. */
  function readColours(box) {
    const style = getComputedStyle(box);
    const read = (name) => style.getPropertyValue(name).match(/\d+/g).map(Number);
    return ["--charlm-minus", "--charlm-zero", "--charlm-plus"].map(read);
  }

  /** The colour of a number from -1 to 1: from the middle straight towards one of the ends. */
  function mix([minus, zero, plus], value) {
    const end = value < 0 ? minus : plus;
    return zero.map((from, i) => Math.round(from + (end[i] - from) * Math.min(1, Math.abs(value))));
  }

  /** Calls back whenever the reader switches between light and dark. */
  function onThemeChange(callback) {
    const options = { attributes: true, attributeFilter: ["data-theme"] };
    new MutationObserver(callback).observe(document.documentElement, options);
  }

  /** Shows a message in a status line; an error is marked as one. */
  function say(line, text, isError = false) {
    line.textContent = text;
    line.classList.toggle("charlm-error", isError);
  }

  return { fill, sign, spoken, decimals, readColours, mix, onThemeChange, say };
})());
