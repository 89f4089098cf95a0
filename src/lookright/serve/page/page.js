"use strict";
// The page of lookright.serve: it asks the server beside it and draws what comes back. All text by textContent.

const MOST = 5, LONGEST = 300, REDRAWN = 2560, TOKENS_BY_HEAD = 16;
const PLAIN_KINDS = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];
const $ = (id) => document.getElementById(id);
const state = { info: null, pictures: [], target: null, results: [], asking: false };

function make(tag, options = {}, ...children) {
  const { classes = [], text, ...rest } = options;
  const element = document.createElement(tag);
  element.classList.add(...classes.filter(Boolean));
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(rest)) {
    if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

function tell(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

function complain(error) {
  tell(`${error.message[0].toUpperCase()}${error.message.slice(1)}.`.replace(/\.\.$/, "."), true);
}

// ---- the server ----

async function call(path, body) {
  const headers = {};
  if ($("key").value) headers.Authorization = `Bearer ${$("key").value}`;
  if (body) headers["Content-Type"] = "application/json";
  const options = body ? { method: "POST", body: JSON.stringify(body), headers } : { headers };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer; start it again");
  }
  const data = await response.json().catch(() => ({}));
  if (response.status === 401) $("key-field").hidden = false;
  if (!response.ok) throw new Error(data.error?.message ?? `the server answered ${response.status}`);
  return data;
}

async function learn() {
  if (state.info) return;
  state.info = await call("/lookright/info");
  const names = [...state.info.models].sort((one, other) => (other === "base") - (one === "base"));
  $("models").replaceChildren();
  if (names.length > 1) {
    names.forEach((name, place) => {
      const box = make("input", { type: "checkbox", value: name, checked: place < 2 });
      $("models").append(make("label", {}, box, name));
    });
  }
  const stops = state.info.colours.map((colour) => `rgb(${colour.join(" ")})`);
  $("scale").style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  showPictures();
}

function chosenModels() {
  const boxes = [...$("models").querySelectorAll("input")];
  return boxes.length ? boxes.filter((box) => box.checked).map((box) => box.value) : state.info.models;
}

// ---- pictures ----

function mostPictures() {
  return Math.min(MOST, state.info?.pictures ?? MOST);
}

async function take(files) {
  for (const file of files) {
    if (state.pictures.length >= mostPictures()) {
      tell(`No more than ${mostPictures()} pictures.`, true);
      break;
    }
    try {
      state.pictures.push(await read(file));
    } catch {
      tell(`${file.name || "The picture"} cannot be read here; take a PNG or JPEG.`, true);
    }
  }
  showPictures();
}

async function read(file) {
  const bitmap = await createImageBitmap(file);
  const most = (state.info?.bytes ?? 2 ** 24) * 0.7;
  const scale = Math.min(1, REDRAWN / Math.max(bitmap.width, bitmap.height));
  if (PLAIN_KINDS.includes(file.type) && file.size < most && bitmap.width * bitmap.height < 2 ** 24) {
    return { bitmap, url: await addressOf(file) };
  }
  // a kind that the server does not read, or more pixels than any model sees
  const canvas = make("canvas", { width: Math.round(bitmap.width * scale), height: Math.round(bitmap.height * scale) });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return { bitmap, url: canvas.toDataURL("image/jpeg", 0.92) };
}

function addressOf(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

function nameOf(number, count = state.pictures.length) {
  return count > 1 ? `Image${number + 1}` : "the picture";
}

function showPictures() {
  const count = state.pictures.length;
  if (state.target !== null && state.target >= count) state.target = null;
  $("pictures").replaceChildren(
    ...state.pictures.map((picture, number) => {
      const remove = make("button", { type: "button", classes: ["remove"], "aria-label": `Remove ${nameOf(number)}` }, make("span", { text: "×" }));
      remove.onclick = () => {
        state.pictures.splice(number, 1);
        showPictures();
        ($("pictures").querySelectorAll(".remove")[Math.min(number, state.pictures.length - 1)] ?? $("files")).focus();
      };
      const shown = make("img", { src: picture.url, alt: nameOf(number) });
      const classes = [number === state.target && count > 1 && "target"];
      return make("li", { classes }, shown, make("div", { classes: ["name"], text: nameOf(number) }), remove);
    }),
  );
  $("drop").hidden = count >= mostPictures();
  $("targets").hidden = count < 2;
  const choices = [...state.pictures.map((_, number) => [number, nameOf(number)]), [null, "all of them"]];
  $("targets").replaceChildren(
    $("targets").querySelector("legend"),
    ...choices.map(([number, text], place) => {
      const button = make("button", { type: "button", text, "aria-pressed": String(number === state.target) });
      button.onclick = () => {
        state.target = number;
        showPictures();
        $("targets").querySelectorAll("button")[place].focus();
      };
      return button;
    }),
  );
  showAsked();
}

function askedText() {
  const question = $("question").value.trim();
  if (state.target === null || state.pictures.length < 2) return question;
  return `In Image${state.target + 1}, ${question.charAt(0).toLowerCase()}${question.slice(1)}`;
}

function showAsked() {
  const asked = askedText();
  $("asked-as").textContent = asked && asked !== $("question").value.trim() ? `Asked as: ${asked}` : "";
}

// ---- asking ----

function contentOf(pictures, text) {
  const shown = pictures.map((picture) => ({ type: "image_url", image_url: { url: picture.url } }));
  return [{ role: "user", content: [...shown, { type: "text", text }] }];
}

async function ask(event) {
  event.preventDefault();
  if (state.asking) return;
  if (!state.pictures.length) return tell("Add a picture first.", true);
  state.asking = true;
  $("send").disabled = true;
  tell("Asking …");
  const start = performance.now();
  try {
    await learn();
    const models = chosenModels();
    if (!models.length) throw new Error("choose a model");
    const pictures = [...state.pictures], text = askedText();
    const options = { heat: true, ratio: true };
    if ($("decode").value) options.decode = $("decode").value;
    const shared = { pictures, text, messages: contentOf(pictures, text), target: state.target };
    state.results = await Promise.all(models.map((model) => askOne(model, shared, options)));
    $("results-title").textContent = text;
    showResults();
    tell(`${models.length > 1 ? "Answers" : "An answer"} in ${((performance.now() - start) / 1000).toFixed(1)} s.`);
  } catch (error) {
    complain(error);
  } finally {
    state.asking = false;
    $("send").disabled = false;
  }
}

async function askOne(model, shared, options) {
  const body = { model, messages: shared.messages, temperature: 0, max_tokens: 256, lookright: options };
  const reply = await call("/v1/chat/completions", body);
  const choice = reply.choices[0], told = choice.lookright;
  const look = readLook(told.heat);
  const target = shared.pictures.length === 1 ? null : told.target;
  return { ...shared, model, told, look, words: wordsOf(look), word: null, heads: new Map(), text: choice.message.content, asked: shared.text, target, cut: choice.finish_reason === "length" };
}

// ---- looks ----

function readLook(heat) {
  const bytes = Uint8Array.from(atob(heat.maps), (letter) => letter.charCodeAt(0));
  const [bands, rows, keys] = heat.shape;
  const row = (band, number) => {
    const start = (band * rows + number) * keys, peak = heat.peaks[band][number] / 255;
    return Float32Array.from(bytes.subarray(start, start + keys), (level) => level * peak);
  };
  return { ...heat, numRows: rows, numKeys: keys, row };
}

function wordsOf(look) {
  const words = [];
  look.tokens.forEach((piece, number) => {
    const last = words[words.length - 1];
    if (piece === "" && number === look.tokens.length - 1) words.push({ text: "end", tokens: [number], end: true });
    else if (!last || /^\s/.test(piece)) words.push({ text: piece.trim(), tokens: [number] });
    else {
      last.text += piece;
      last.tokens.push(number);
    }
  });
  return words.filter((word) => word.text);
}

function meanOf(rows, size) {
  const mean = new Float32Array(size);
  for (const row of rows) for (let key = 0; key < size; key++) mean[key] += row[key] / rows.length;
  return mean;
}

/** Tokens of the word that is chosen, or of all of the answer. */
function tokensOf({ look, word, words }) {
  const wanted = word === null ? look.tokens.map((_, number) => number) : words[word].tokens;
  return wanted.filter((number) => number < look.numRows);
}

/** Attention that those tokens gave to each token of the pictures. */
async function attentionOf(result) {
  const { look } = result, band = Number($("band").value), head = $("head").value, tokens = tokensOf(result);
  if (head === "") return meanOf(tokens.map((number) => look.row(band, number)), look.numKeys);
  // by head the server tells one token at a time
  const looks = await Promise.all(tokens.slice(0, TOKENS_BY_HEAD).map((token) => headsOf(result, token)));
  return meanOf(looks.map((one) => one.row(band, Number(head))), look.numKeys);
}

async function headsOf(result, token) {
  if (!result.heads.has(token)) {
    const body = { model: result.model, messages: result.messages, token_ids: result.look.token_ids, token };
    const asked = call("/lookright/look", body).then(readLook);
    asked.catch(() => result.heads.delete(token)); // so that the next click asks again
    result.heads.set(token, asked);
  }
  return result.heads.get(token);
}

function sharesOf(look, values) {
  let key = 0;
  const sums = look.pictures.map((picture) => {
    let sum = 0;
    for (const box of picture.boxes) sum += values[key++] * box[4];
    return sum;
  });
  const all = sums.reduce((one, other) => one + other, 0) || 1;
  return sums.map((sum) => sum / all);
}

/** As reports/heat.py: at each place the attention over a token's own area, in multiples of an even look. */
function levelsOf(look, values) {
  let onPictures = 0, seenArea = 0, key = 0;
  for (const picture of look.pictures) {
    for (const box of picture.boxes) {
      onPictures += box[4] * values[key++];
      seenArea += box[4];
    }
  }
  const even = onPictures ? onPictures / seenArea : 1;
  key = 0;
  return look.pictures.map((picture) => {
    const scale = LONGEST / Math.max(picture.width, picture.height);
    const width = Math.max(1, Math.round(picture.width * scale)), height = Math.max(1, Math.round(picture.height * scale));
    const density = new Float32Array(width * height), evenly = new Float32Array(width * height);
    for (const [left, top, right, bottom, share] of picture.boxes) {
      const area = ((right - left) * picture.width * (bottom - top) * picture.height) / share;
      const value = values[key++] / area, flat = even / area;
      for (let y = Math.round(top * height); y < Math.round(bottom * height); y++) {
        for (let x = Math.round(left * width); x < Math.round(right * width); x++) {
          density[y * width + x] += value;
          evenly[y * width + x] += flat;
        }
      }
    }
    return { width, height, levels: density.map((value, place) => (evenly[place] ? value / evenly[place] : 0)) };
  });
}

function peakOf(maps) {
  const all = Float32Array.from(maps.flatMap((map) => Array.from(map.levels))).sort();
  return Math.max(state.info.lowest_peak, all[Math.floor(0.98 * (all.length - 1))] ?? 0);
}

function colourOf(level) {
  const anchors = state.info.colours, place = level * (anchors.length - 1);
  const low = Math.min(Math.floor(place), anchors.length - 2), part = place - low;
  return anchors[low].map((value, channel) => value + (anchors[low + 1][channel] - value) * part);
}

function draw(canvas, bitmap, map, peak) {
  canvas.width = map.width;
  canvas.height = map.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, map.width, map.height);
  context.drawImage(bitmap, 0, 0, map.width, map.height);
  const image = context.getImageData(0, 0, map.width, map.height);
  map.levels.forEach((value, place) => {
    const level = Math.min(1, value / peak), opacity = 0.1 + 0.68 * level ** 0.8, colour = colourOf(level);
    for (let channel = 0; channel < 3; channel++) {
      const at = 4 * place + channel;
      image.data[at] = (1 - opacity) * 0.62 * image.data[at] + opacity * colour[channel];
    }
  });
  context.putImageData(image, 0, 0);
}

// ---- what is shown ----

function showResults() {
  const { look } = state.results[0];
  const bands = look.bands.map((band, number) => make("option", { value: String(number), text: band.name }));
  const before = $("band").value, head = $("head").value;
  $("band").replaceChildren(...bands);
  if (before && Number(before) < bands.length) $("band").value = before;
  const heads = Array.from({ length: look.num_heads }, (_, number) => make("option", { value: String(number), text: `head ${number + 1}` }));
  $("head").replaceChildren(make("option", { value: "", text: "mean of all" }), ...heads);
  $("head").value = head;
  $("answers").replaceChildren(...state.results.map(card));
  $("results").hidden = false;
  return Promise.all(state.results.map(refresh));
}

function card(result) {
  const percent = (value) => `${Math.round(100 * value)} %`;
  const chips = [];
  if (result.target !== null && result.told.attention_ratio !== null) {
    const even = result.told.even_ratio;
    chips.push(`on ${nameOf(result.target, result.pictures.length)} ${percent(result.told.attention_ratio)}, even look ${percent(even)}`);
  }
  chips.push(`sure ${percent(result.told.confidence)}`);
  if (result.told.factor !== undefined) chips.push(`attention × ${result.told.factor.toFixed(1)}`);
  const top = make("div", { classes: ["card-head"] }, make("b", { text: result.model }), ...chips.map((text) => make("span", { classes: ["chip"], text })));
  result.buttons = [
    ...result.words.map((word, number) => wordButton(result, word.text, number, word.end && "end")),
    wordButton(result, "whole answer", null, "whole"),
  ];
  const said = make("div", { classes: ["said"] }, ...(result.text ? [] : [make("span", { classes: ["hint"], text: "(no words) " })]), ...result.buttons);
  result.fills = [];
  const bars = make("div", { classes: ["bars"] });
  result.canvases = result.pictures.map(() => make("canvas", { role: "img" }));
  const several = result.pictures.length > 1;
  const maps = make("div", { classes: ["maps", !several && "one"] });
  result.pictures.forEach((picture, number) => {
    const is = [number === result.target && "target"], name = nameOf(number, result.pictures.length);
    const fill = make("div", { classes: ["fill", ...is] }), value = make("span", { classes: ["value", ...is] });
    result.fills.push([fill, value]);
    if (several) bars.append(make("span", { classes: is, text: name }), make("div", { classes: ["track"] }, fill), value);
    maps.append(make("figure", { classes: is }, result.canvases[number], make("figcaption", { text: name })));
  });
  result.note = make("p", { classes: ["note"] });
  return make("article", { classes: ["card"] }, top, said, ...(several ? [bars] : []), maps, result.note);
}

function wordButton(result, text, number, kind) {
  const classes = [kind], tokens = number === null ? [0] : result.words[number].tokens;
  const button = make("button", { type: "button", classes, text, disabled: tokens[0] >= result.look.numRows });
  button.onclick = () => {
    result.word = number;
    return refresh(result);
  };
  return button;
}

async function refresh(result) {
  const turn = (result.turn = (result.turn ?? 0) + 1), byHead = $("head").value !== "";
  if (byHead) {
    result.note.textContent = "Looking …";
    tell("");
  }
  let values;
  try {
    values = await attentionOf(result);
  } catch (error) {
    result.note.textContent = "";
    return complain(error);
  }
  if (turn !== result.turn) return; // another word was clicked meanwhile
  result.buttons.forEach((button, place) => {
    const own = place === result.words.length ? null : place;
    button.setAttribute("aria-pressed", String(own === result.word));
  });
  const whole = result.word === null && !byHead && $("band").value === "0" && result.told.attention;
  const shares = whole || sharesOf(result.look, values);
  shares.forEach((share, number) => {
    const [fill, value] = result.fills[number];
    fill.style.width = `${100 * share}%`;
    value.textContent = `${Math.round(100 * share)} %`;
    const name = nameOf(number, shares.length);
    result.canvases[number].setAttribute("aria-label", `Heat over ${name}: ${value.textContent} of the attention`);
  });
  const maps = levelsOf(result.look, values), peak = peakOf(maps);
  result.canvases.forEach((canvas, number) => draw(canvas, result.pictures[number].bitmap, maps[number], peak));
  const looked = result.word === null ? "the whole answer" : result.words[result.word].end ? "the end" : `“${result.words[result.word].text}”`;
  const cut = result.cut ? " The answer was cut at its longest." : "";
  const some = byHead && tokensOf(result).length > TOKENS_BY_HEAD ? `, its first ${TOKENS_BY_HEAD} tokens` : "";
  result.note.textContent = `Looking for ${looked}${some}. Brightest: ${peak.toFixed(1)} times an even look.${cut}`;
}

// ---- wiring ----

$("files").onchange = (event) => {
  take([...event.target.files]);
  event.target.value = "";
};
$("ask").onsubmit = ask;
$("question").oninput = showAsked;
$("question").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) $("ask").requestSubmit(), event.preventDefault();
};
for (const id of ["band", "head"]) $(id).onchange = () => Promise.all(state.results.map(refresh));
$("key").onchange = () => learn().then(() => tell("")).catch(complain);
document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith("image/"));
  if (files.length) take(files);
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take([...event.dataTransfer.files].filter((file) => file.type.startsWith("image/")));
  });
}
learn().catch(complain);
showPictures();
